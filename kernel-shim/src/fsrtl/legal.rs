//! Which ASCII characters names may have.

use crate::api::nt_data;
use crate::raw::{DataCell, Word, to_word};

const CHARACTERS: usize = 128;
/// Legal on FAT, HPFS and NTFS.
const FAT: u8 = 0x01;
const HPFS: u8 = 0x02;
const NTFS: u8 = 0x04;
const WILD: u8 = 0x08;
const OLE: u8 = 0x10;

const fn flags_of(character: u8) -> u8 {
    match character {
        0 | b'/' | b':' | b'\\' => 0,
        1..=31 | b'|' => OLE,
        b'"' | b'*' | b'<' | b'>' | b'?' => WILD | OLE,
        b'+' | b',' | b';' | b'=' | b'[' | b']' => HPFS | NTFS | OLE,
        _ => FAT | HPFS | NTFS | OLE,
    }
}

static FLAGS: DataCell<[u8; CHARACTERS]> = DataCell::new({
    let mut all = [0; CHARACTERS];
    let mut character = 0_u8;
    while (character as usize) < CHARACTERS {
        all[character as usize] = flags_of(character);
        character += 1;
    }
    all
});

pub(super) fn initialize() {
    FsRtlLegalAnsiCharacterArray
        .ptr()
        .write(to_word(FLAGS.ptr().addr()));
}

nt_data! { module = fsrtl_legal;
    /// The address of 128 bytes of flags: FSRTL_FAT_LEGAL 1, HPFS 2, NTFS 4, FSRTL_WILD_CHARACTER 8, OLE 16.
    ntoskrnl both data(4, 8) implemented
    FsRtlLegalAnsiCharacterArray: Word = 0;
}

#[cfg(test)]
mod tests {
    use super::flags_of;

    #[test]
    fn characters() {
        assert_eq!(flags_of(b'A'), 0x17);
        assert_eq!(flags_of(b'*'), 0x18);
        assert_eq!(flags_of(b'+'), 0x16);
        assert_eq!(flags_of(b'\\'), 0);
    }
}
