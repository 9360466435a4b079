//! Reading the file: every value comes with its name and offset, so that a rejection can say both.

use crate::{ImageError, MAX_IMAGE_BYTES};

/// A value read from the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<T> {
    /// Name in Microsoft's PE documentation.
    pub(crate) name: &'static str,
    /// File offset.
    pub(crate) offset: u32,
    /// The value.
    pub(crate) value: T,
}

impl<T: Copy + Into<u64>> Field<T> {
    /// The error that this field's value is wrong; `problem` completes "NAME at OFFSET is VALUE, ...".
    pub(crate) fn reject(&self, problem: impl Into<String>) -> ImageError {
        ImageError::Field {
            field: self.name,
            offset: self.offset,
            value: self.value.into(),
            problem: problem.into(),
        }
    }

    /// The same field with its value in another form (for values that hold more than one thing).
    pub(crate) const fn with<U>(&self, value: U) -> Field<U> {
        Field {
            name: self.name,
            offset: self.offset,
            value,
        }
    }
}

/// The bytes of the file. All offsets fit `u32`, since the length is bounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File<'a> {
    bytes: &'a [u8],
    length: u32,
}

impl<'a> File<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, ImageError> {
        match u32::try_from(bytes.len()) {
            Ok(length) if length <= MAX_IMAGE_BYTES => Ok(Self { bytes, length }),
            _ => Err(ImageError::TooLarge {
                file_bytes: bytes.len(),
                limit: MAX_IMAGE_BYTES,
            }),
        }
    }

    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) const fn length(&self) -> u32 {
        self.length
    }

    /// `bytes` bytes at `offset`; `field` names them in the error.
    pub(crate) fn slice(
        &self,
        field: &'static str,
        offset: u32,
        bytes: u32,
    ) -> Result<&'a [u8], ImageError> {
        let start = offset as usize;
        self.bytes
            .get(start..start.saturating_add(bytes as usize))
            .ok_or(ImageError::Truncated {
                field,
                offset,
                bytes,
                file_bytes: self.length,
            })
    }

    fn array<const N: usize>(
        &self,
        name: &'static str,
        offset: u32,
    ) -> Result<Field<[u8; N]>, ImageError> {
        let length = u32::try_from(N).unwrap_or(u32::MAX);
        let mut value = [0; N];
        value.copy_from_slice(self.slice(name, offset, length)?);
        Ok(Field {
            name,
            offset,
            value,
        })
    }

    pub(crate) fn u16(&self, offset: u32, name: &'static str) -> Result<Field<u16>, ImageError> {
        let Field { value, .. } = self.array(name, offset)?;
        Ok(Field {
            name,
            offset,
            value: u16::from_le_bytes(value),
        })
    }

    pub(crate) fn u32(&self, offset: u32, name: &'static str) -> Result<Field<u32>, ImageError> {
        let Field { value, .. } = self.array(name, offset)?;
        Ok(Field {
            name,
            offset,
            value: u32::from_le_bytes(value),
        })
    }

    pub(crate) fn u64(&self, offset: u32, name: &'static str) -> Result<Field<u64>, ImageError> {
        let Field { value, .. } = self.array(name, offset)?;
        Ok(Field {
            name,
            offset,
            value: u64::from_le_bytes(value),
        })
    }

    /// A pointer-sized value: 4 bytes on i386, 8 on amd64.
    pub(crate) fn word(
        &self,
        abi: abi::DriverAbi,
        offset: u32,
        name: &'static str,
    ) -> Result<Field<u64>, ImageError> {
        match abi {
            abi::DriverAbi::I386 => {
                let field = self.u32(offset, name)?;
                Ok(field.with(u64::from(field.value)))
            }
            abi::DriverAbi::Amd64 => self.u64(offset, name),
        }
    }
}
