//! Guest processes that several connections use: tokens, and what a client has joined.
//!
//! A program under Wine has one guest process, but more than one connection: the proxy driver's, which opened the device,
//! and its own, by which its port accesses go. The first asks for a token, the second joins with it.

use std::collections::{HashMap, HashSet};

use abi::client::TOKEN_BYTES;

use super::status;

/// Who knows it may use the process. Compared as one number, so that the time it takes says nothing.
pub(in crate::session) type Token = u128;

/// A client's part in shared processes.
#[derive(Debug, Default)]
pub(in crate::session) struct Sharing {
    /// Tokens of its own processes.
    tokens: HashMap<u32, Token>,
    /// Processes of others that it has joined.
    joined: HashSet<u32>,
}

/// The token that a request brings.
pub(in crate::session) fn decode(input: &[u8]) -> Result<Token, u32> {
    let bytes: [u8; TOKEN_BYTES] = input.try_into().map_err(|_| status::INVALID_PARAMETER)?;
    Ok(Token::from_le_bytes(bytes))
}

impl Sharing {
    /// The token of one of the client's own processes: always the same one.
    pub(in crate::session) fn share(&mut self, process: u32) -> Result<[u8; TOKEN_BYTES], u32> {
        if let Some(token) = self.tokens.get(&process) {
            return Ok(token.to_le_bytes());
        }
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| {
            tracing::warn!("no token for a client: {error}");
            status::INSUFFICIENT_RESOURCES
        })?;
        self.tokens.insert(process, Token::from_le_bytes(bytes));
        Ok(bytes)
    }

    /// The process that a token stands for, if the client has given it out.
    pub(in crate::session) fn process_of(&self, token: Token) -> Option<u32> {
        let mut tokens = self.tokens.iter();
        tokens.find_map(|(process, of)| (*of == token).then_some(*process))
    }

    pub(in crate::session) fn join(&mut self, process: u32) {
        self.joined.insert(process);
    }

    pub(in crate::session) fn has_joined(&self, process: u32) -> bool {
        self.joined.contains(&process)
    }

    /// How many processes it has joined.
    pub(in crate::session) fn count(&self) -> usize {
        self.joined.len()
    }

    /// The process has ended, whoever's it was.
    pub(in crate::session) fn forget(&mut self, process: u32) {
        self.tokens.remove(&process);
        self.joined.remove(&process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_end_with_their_process() {
        let mut owner = Sharing::default();
        let (one, two) = (owner.share(8).unwrap(), owner.share(16).unwrap());
        assert_ne!(one, two);
        assert_eq!(owner.share(8), Ok(one));
        assert_eq!(owner.process_of(decode(&one).unwrap()), Some(8));
        owner.forget(8);
        assert_eq!(owner.process_of(decode(&one).unwrap()), None);
        assert_eq!(owner.process_of(decode(&two).unwrap()), Some(16));
        assert_ne!(owner.share(8), Ok(one), "a token is not used again");
    }

    #[test]
    fn half_a_token_is_none() {
        for bytes in [0, 15, 17] {
            assert_eq!(decode(&vec![0; bytes]), Err(status::INVALID_PARAMETER));
        }
    }
}
