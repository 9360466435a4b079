//! The conditions of conditional ACEs (MS-DTYP, 2.4.4.17): an expression in postfix form behind the ACE's SID.
//!
//! The tokens of this kernel have no claims, so a user's or a device's attributes are unknown; those of the resource are
//! in the object's system ACL.

use alloc::string::String;
use alloc::vec::Vec;

use super::ace;
use super::sid::Sid;
use super::token::Token;
use crate::ob::names::fold;
use crate::raw::Ptr;

/// What a conditional ACE's application data begins with.
const MAGIC: &[u8] = b"artx";
/// How deep composite literals may be nested.
const MAX_DEPTH: u32 = 4;

/// What a condition comes to: true, false, or (`None`) unknown.
pub type Truth = Option<bool>;

/// A value on the evaluation's stack.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    Integer(i128),
    Text(String),
    Octets(Vec<u8>),
    Sid(Sid),
    /// Several; also an attribute's values when it has not exactly one.
    Many(Vec<Value>),
    /// An attribute that is not there.
    Null,
    /// An operator's result.
    Truth(Truth),
}

impl Value {
    fn members(&self) -> Vec<Self> {
        match self {
            Self::Many(values) => values.clone(),
            Self::Null => Vec::new(),
            value => alloc::vec![value.clone()],
        }
    }

    /// As an operand of a logical operator.
    fn truth(&self) -> Truth {
        match self {
            Self::Truth(truth) => *truth,
            Self::Integer(number) => Some(*number != 0),
            Self::Text(text) => Some(!text.is_empty()),
            Self::Null | Self::Octets(_) | Self::Sid(_) | Self::Many(_) => None,
        }
    }

    /// Which of two comes first; `None`: they cannot be compared.
    fn order(&self, other: &Self) -> Option<core::cmp::Ordering> {
        match (self, other) {
            (Self::Integer(first), Self::Integer(second)) => Some(first.cmp(second)),
            (Self::Text(first), Self::Text(second)) => Some(fold(first).cmp(&fold(second))),
            (Self::Octets(first), Self::Octets(second)) => Some(first.cmp(second)),
            _ => None,
        }
    }

    /// `None`: they are of different kinds.
    fn is_equal(&self, other: &Self) -> Truth {
        match (self, other) {
            (Self::Sid(first), Self::Sid(second)) => Some(first == second),
            (Self::Many(first), Self::Many(second)) => {
                Some(contains_all(first, second) && contains_all(second, first))
            }
            _ => Some(self.order(other)?.is_eq()),
        }
    }
}

fn contains(values: &[Value], wanted: &Value) -> bool {
    values
        .iter()
        .any(|value| value.is_equal(wanted) == Some(true))
}

fn contains_all(values: &[Value], wanted: &[Value]) -> bool {
    wanted.iter().all(|wanted| contains(values, wanted))
}

/// Reads a condition.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn dword(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Bytes with their number before them.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.dword()?).ok()?;
        self.take(count)
    }

    /// A literal that begins with `token`.
    fn literal(&mut self, token: u8, depth: u32) -> Option<Value> {
        Some(match token {
            0x01..=0x04 => {
                let number = i64::from_le_bytes(self.take(8)?.try_into().ok()?);
                let (_sign, _base) = (self.byte()?, self.byte()?);
                Value::Integer(number.into())
            }
            0x10 => Value::Text(text(self.counted()?)),
            0x18 => Value::Octets(self.counted()?.to_vec()),
            0x50 if depth < MAX_DEPTH => {
                let mut inner = Reader(self.counted()?);
                let mut values = Vec::new();
                while let Some(token) = inner.byte() {
                    values.push(inner.literal(token, depth + 1)?);
                }
                Value::Many(values)
            }
            0x51 => {
                let mut bytes = self.counted()?.to_vec();
                let whole = 8 + 4 * usize::from(*bytes.get(1)?);
                if bytes.len() < whole {
                    return None;
                }
                Value::Sid(Sid::read(Ptr::of(bytes.first_mut()?))?)
            }
            _ => return None,
        })
    }
}

fn text(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    String::from_utf16_lossy(&units)
}

/// What conditions are about.
#[derive(Debug)]
pub struct Subject<'a> {
    token: &'a Token,
    resource: Vec<(String, Value)>,
}

impl<'a> Subject<'a> {
    /// A token that wants access to an object with this system ACL (which may be null).
    #[must_use]
    pub fn new(token: &'a Token, sacl: Ptr<u8>) -> Self {
        let resource = if sacl.is_null() {
            Vec::new()
        } else {
            let all = ace::resource_attributes(sacl).into_iter();
            all.filter_map(|bytes| claim(&bytes)).collect()
        };
        Self { token, resource }
    }

    /// The value of an attribute: of kind local (0xF8), user, resource, device.
    fn attribute(&self, kind: u8, name: &str) -> Value {
        let name = fold(name);
        self.resource
            .iter()
            .find(|(known, _)| kind == 0xFA && *known == name)
            .map_or(Value::Null, |(_, value)| value.clone())
    }

    /// Whether the token has all or any of the SIDs; of a device there are none.
    fn is_member(&self, operator: u8, sids: &Value, is_denial: bool) -> Truth {
        let sids = sids.members();
        let is_device = matches!(operator, 0x8A | 0x8C | 0x91 | 0x93);
        let is_any = matches!(operator, 0x8B | 0x8C | 0x92 | 0x93);
        let is_negated = operator >= 0x90;
        let mut has = Vec::new();
        for sid in &sids {
            let Value::Sid(sid) = sid else { return None };
            has.push(!is_device && self.token.has_sid(sid, is_denial));
        }
        if has.is_empty() {
            return None;
        }
        let is_member = if is_any {
            has.iter().any(|&has| has)
        } else {
            has.iter().all(|&has| has)
        };
        Some(is_member != is_negated)
    }

    /// What the condition behind an ACE's SID comes to. `None` also for one that is malformed; `Some(false)`: it is no
    /// condition, and the ACE means nothing to the kernel.
    #[must_use]
    pub fn evaluate(&self, condition: &[u8], is_denial: bool) -> Truth {
        let Some(expression) = condition.strip_prefix(MAGIC) else {
            return Some(false);
        };
        let mut stack = Vec::new();
        let mut reader = Reader(expression);
        while let Some(token) = reader.byte() {
            let value = match token {
                0 => continue, // padding
                0x01..=0x51 => reader.literal(token, 0)?,
                0xF8..=0xFB => self.attribute(token, &text(reader.counted()?)),
                0x87 => Value::Truth(Some(stack.pop()? != Value::Null)),
                0x8D => Value::Truth(Some(stack.pop()? == Value::Null)),
                0x89..=0x8C | 0x90..=0x93 => {
                    let sids: Value = stack.pop()?;
                    Value::Truth(self.is_member(token, &sids, is_denial))
                }
                0xA2 => Value::Truth(stack.pop()?.truth().map(|truth| !truth)),
                _ => {
                    let second = stack.pop()?;
                    let first = stack.pop()?;
                    Value::Truth(binary(token, &first, &second)?)
                }
            };
            stack.push(value);
        }
        let result = stack.pop()?;
        if stack.is_empty() {
            result.truth()
        } else {
            None
        }
    }
}

/// An operator of two operands; `None`: there is no such one.
fn binary(operator: u8, first: &Value, second: &Value) -> Option<Truth> {
    let is_unknown = *first == Value::Null || *second == Value::Null;
    Some(match operator {
        0xA0 => match (first.truth(), second.truth()) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        },
        0xA1 => match (first.truth(), second.truth()) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
        0x80..=0x86 | 0x88 | 0x8E | 0x8F if is_unknown => None,
        0x80 => first.is_equal(second),
        0x81 => first.is_equal(second).map(|is_equal| !is_equal),
        0x82 => first.order(second).map(core::cmp::Ordering::is_lt),
        0x83 => first.order(second).map(core::cmp::Ordering::is_le),
        0x84 => first.order(second).map(core::cmp::Ordering::is_gt),
        0x85 => first.order(second).map(core::cmp::Ordering::is_ge),
        0x86 | 0x8E => {
            let has_all = contains_all(&first.members(), &second.members());
            Some(has_all != (operator == 0x8E))
        }
        0x88 | 0x8F => {
            let values = first.members();
            let has_any = second
                .members()
                .iter()
                .any(|wanted| contains(&values, wanted));
            Some(has_any != (operator == 0x8F))
        }
        _ => return None,
    })
}

/// CLAIM_SECURITY_ATTRIBUTE_RELATIVE_V1: a folded name and its values. `None`: it is malformed.
fn claim(bytes: &[u8]) -> Option<(String, Value)> {
    let dword = |at: usize| Reader(bytes.get(at..)?).dword();
    let name_at = usize::try_from(dword(0)?).ok()?;
    let value_type = dword(4)? & 0xFFFF;
    let count = usize::try_from(dword(12)?).ok()?;
    let wide = |at: usize| {
        let units = bytes.get(at..)?;
        let end = units.chunks_exact(2).position(|unit| unit == [0, 0])?;
        Some(text(&units[..2 * end]))
    };
    let mut values = Vec::new();
    // Each value has an offset of its own.
    for index in 0..count.min(bytes.len() / 4) {
        let at = usize::try_from(dword(16 + 4 * index)?).ok()?;
        let mut reader = Reader(bytes.get(at..)?);
        values.push(match value_type {
            1 => Value::Integer(i64::from_le_bytes(reader.take(8)?.try_into().ok()?).into()),
            2 | 6 => Value::Integer(u64::from_le_bytes(reader.take(8)?.try_into().ok()?).into()),
            3 => Value::Text(wide(at)?),
            5 => reader.literal(0x51, 0)?,
            0x10 => Value::Octets(reader.counted()?.to_vec()),
            _ => return None,
        });
    }
    let value = if values.len() == 1 {
        values.pop()?
    } else {
        Value::Many(values)
    };
    Some((fold(&wide(name_at)?), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::se::token;
    use crate::test_platform::machine;

    fn client() -> Token {
        assert!(crate::ps::create(8).is_success());
        token::get(token::of_process(crate::ps::by_id(8).unwrap())).unwrap()
    }

    fn integer(value: i64) -> Vec<u8> {
        let mut bytes = vec![4];
        bytes.extend(value.to_le_bytes());
        bytes.extend([3, 2]);
        bytes
    }

    fn counted(token: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![token];
        bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        bytes.extend(data);
        bytes
    }

    fn wide(token: u8, text: &str) -> Vec<u8> {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        counted(token, &units)
    }

    fn condition(parts: &[&[u8]]) -> Vec<u8> {
        [MAGIC, &parts.concat()].concat()
    }

    #[test]
    fn operators_follow_three_valued_logic() {
        let _machine = machine();
        let token = client();
        let subject = Subject::new(&token, Ptr::null());
        let ask = |parts: &[&[u8]]| subject.evaluate(&condition(parts), false);
        let (one, two, user) = (integer(1), integer(2), wide(0xF9, "clearance"));
        assert_eq!(ask(&[&one, &two, &[0x82]]), Some(true));
        assert_eq!(ask(&[&one, &two, &[0x80]]), Some(false));
        assert_eq!(ask(&[&one, &two, &[0x81]]), Some(true));
        assert_eq!(ask(&[&user, &two, &[0x80]]), None, "no such claim");
        assert_eq!(ask(&[&user, &[0x87]]), Some(false));
        assert_eq!(ask(&[&user, &[0x8D]]), Some(true));
        let (no, unknown) = ([one.clone(), two.clone(), vec![0x80]].concat(), user);
        assert_eq!(ask(&[&no, &unknown, &[0xA0]]), Some(false));
        assert_eq!(ask(&[&no, &unknown, &[0xA1]]), None);
        assert_eq!(ask(&[&no, &[0xA2]]), Some(true));
        assert_eq!(
            ask(&[&wide(0x10, "ABC"), &wide(0x10, "abc"), &[0x80]]),
            Some(true)
        );
        let both = counted(0x50, &[one.clone(), two.clone()].concat());
        assert_eq!(ask(&[&both, &two, &[0x86]]), Some(true));
        assert_eq!(ask(&[&two, &both, &[0x86]]), Some(false));
        assert_eq!(ask(&[&two, &both, &[0x88]]), Some(true));
        assert_eq!(ask(&[&integer(3), &both, &[0x8F]]), Some(true));
        assert_eq!(ask(&[&one, &two]), None, "two results");
        assert_eq!(ask(&[&[0x80]]), None, "no operands");
        assert_eq!(ask(&[&[0x10, 9, 0, 0, 0]]), None, "cut off");
        assert_eq!(subject.evaluate(b"other", false), Some(false));
    }

    #[test]
    fn membership_is_that_of_the_token() {
        let _machine = machine();
        let token = client();
        let subject = Subject::new(&token, Ptr::null());
        let ask = |parts: &[&[u8]]| subject.evaluate(&condition(parts), false);
        let world = counted(0x51, &Sid::new(1, &[0]).bytes());
        let other = counted(0x51, &Sid::new(5, &[99]).bytes());
        let both = counted(0x50, &[world.clone(), other.clone()].concat());
        assert_eq!(ask(&[&world, &[0x89]]), Some(true));
        assert_eq!(ask(&[&both, &[0x89]]), Some(false));
        assert_eq!(ask(&[&both, &[0x8B]]), Some(true));
        assert_eq!(ask(&[&other, &[0x90]]), Some(true));
        assert_eq!(ask(&[&world, &[0x8A]]), Some(false), "no device");
        assert_eq!(ask(&[&integer(1), &[0x89]]), None);
    }

    #[test]
    fn a_claim_has_a_name_and_values() {
        let mut bytes = vec![0; 20];
        bytes[0] = 28;
        bytes[4] = 1;
        bytes[12] = 1;
        bytes[16] = 20;
        bytes.extend(7_i64.to_le_bytes());
        bytes.extend("Zone\0".encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(claim(&bytes), Some((fold("zone"), Value::Integer(7))));
        assert_eq!(claim(&bytes[..30]), None);
        assert_eq!(claim(&[]), None);
    }
}
