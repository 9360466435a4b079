//! How registry contents travel: an encoding of keys and values, in both directions.
//!
//! A header of four u32 (magic, format, bytes of the whole, zero), then records: kind, bytes of the name, registry type,
//! bytes of the data (u32 each), the name (UTF-16), the data, zeros up to a multiple of 4. All numbers are
//! little-endian. A value belongs to the key whose record came last.

/// First word of the encoding: "RFRG".
pub const MAGIC: u32 = u32::from_le_bytes(*b"RFRG");
/// Second word: this format.
pub const FORMAT: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 16;
/// The most bytes of registry contents, encoded, that either side takes.
pub const MAX_BYTES: usize = 256 << 10;

/// What a [`Record`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RecordKind {
    /// A key, to be made if it is not there: its full name, `\Registry\...`.
    Key = 1,
    /// A value of the last key.
    Value = 2,
    /// A key that is to be deleted with everything below it.
    DeleteKey = 3,
    /// A value of the last key that is to be deleted.
    DeleteValue = 4,
}

impl RecordKind {
    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Key,
            2 => Self::Value,
            3 => Self::DeleteKey,
            4 => Self::DeleteValue,
            _ => return None,
        })
    }
}

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// UTF-16, little-endian.
    pub name: &'a [u8],
    /// REG_ type of a value.
    pub value_type: u32,
    /// Data of a value.
    pub data: &'a [u8],
}

impl Record<'_> {
    /// Appends it.
    pub fn encode(&self, target: &mut impl Extend<u8>) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let head = [
            self.kind as u32,
            length(self.name),
            self.value_type,
            length(self.data),
        ];
        target.extend(head.iter().flat_map(|word| word.to_le_bytes()));
        target.extend(self.name.iter().copied());
        target.extend(self.data.iter().copied());
        let used = self.name.len() + self.data.len();
        target.extend(core::iter::repeat_n(0, used.next_multiple_of(4) - used));
    }
}

/// The header of an encoding of so many bytes, the header's own included.
#[must_use]
pub fn header(bytes: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    for (into, word) in header.chunks_exact_mut(4).zip([MAGIC, FORMAT, bytes, 0]) {
        into.copy_from_slice(&word.to_le_bytes());
    }
    header
}

/// The encoding is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The records of an encoding, each checked as it is taken. Ends after the first that is [`Malformed`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records of what begins with a header.
    ///
    /// # Errors
    /// The header is not one of this format, or says another length.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(Malformed)?;
        let length = u32::try_from(bytes.len()).map_err(|_| Malformed)?;
        if head == header(length) {
            Ok(Self { rest })
        } else {
            Err(Malformed)
        }
    }

    fn take(&mut self) -> Option<Record<'a>> {
        let (head, rest) = self.rest.split_at_checked(16)?;
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(head.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().ok()?);
        }
        let [kind, name_bytes, value_type, data_bytes] = words;
        let (name, after) = rest.split_at_checked(usize::try_from(name_bytes).ok()?)?;
        let (data, _) = after.split_at_checked(usize::try_from(data_bytes).ok()?)?;
        let used = (name.len() + data.len()).next_multiple_of(4);
        self.rest = rest.get(used..)?;
        if name.len() % 2 != 0 {
            return None;
        }
        Some(Record {
            kind: RecordKind::from_number(kind)?,
            name,
            value_type,
            data,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.take().ok_or(Malformed);
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}
