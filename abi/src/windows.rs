//! The versions of Windows that a guest can be: what the kernel's images, its variables and RtlGetVersion say.

use crate::DriverAbi;

/// A version of Windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum Windows {
    /// Windows XP with Service Pack 3 (i386), or Windows XP x64 Edition with Service Pack 2 (amd64).
    Xp = 1,
    /// Windows 7 with Service Pack 1.
    Seven = 2,
    /// Windows 10, version 22H2.
    Ten = 3,
    /// Windows 11, version 23H2. There is none for i386.
    Eleven = 4,
}

/// What a version says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Release {
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Build.
    pub build: u16,
    /// Service pack; 0: none.
    pub service_pack: u16,
    /// The service pack's name (CSDVersion); empty: none.
    pub service_pack_name: &'static str,
    /// NtBuildLab: build, branch and date.
    pub build_lab: &'static str,
}

impl Windows {
    /// All of them, oldest first.
    pub const ALL: [Self; 4] = [Self::Xp, Self::Seven, Self::Ten, Self::Eleven];

    /// The version that drivers of an ABI get unless asked otherwise: 7 for i386, 10 for amd64. Both are the last
    /// that most drivers of their ABI were tested on.
    #[must_use]
    pub const fn default_for(abi: DriverAbi) -> Self {
        match abi {
            DriverAbi::I386 => Self::Seven,
            DriverAbi::Amd64 => Self::Ten,
        }
    }

    /// From its number in the boot information; `None` for a number that is no version.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Xp,
            2 => Self::Seven,
            3 => Self::Ten,
            4 => Self::Eleven,
            _ => return None,
        })
    }

    /// The name that users give: `xp`, `7`, `10`, `11`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xp => "xp",
            Self::Seven => "7",
            Self::Ten => "10",
            Self::Eleven => "11",
        }
    }

    /// Whether Microsoft made it for an ABI.
    #[must_use]
    pub const fn exists_for(self, abi: DriverAbi) -> bool {
        !matches!((self, abi), (Self::Eleven, DriverAbi::I386))
    }

    /// What it says about itself.
    #[must_use]
    pub const fn release(self, abi: DriverAbi) -> Release {
        match (self, abi) {
            (Self::Xp, DriverAbi::I386) => Release {
                major: 5,
                minor: 1,
                build: 2600,
                service_pack: 3,
                service_pack_name: "Service Pack 3",
                build_lab: "2600.xpsp.080413-2111",
            },
            (Self::Xp, DriverAbi::Amd64) => Release {
                major: 5,
                minor: 2,
                build: 3790,
                service_pack: 2,
                service_pack_name: "Service Pack 2",
                build_lab: "3790.srv03_sp2_rtm.070216-1710",
            },
            (Self::Seven, _) => Release {
                major: 6,
                minor: 1,
                build: 7601,
                service_pack: 1,
                service_pack_name: "Service Pack 1",
                build_lab: "7601.win7sp1_rtm.101119-1850",
            },
            (Self::Ten, _) => Release {
                major: 10,
                minor: 0,
                build: 19045,
                service_pack: 0,
                service_pack_name: "",
                build_lab: "19041.vb_release.191206-1406",
            },
            (Self::Eleven, _) => Release {
                major: 10,
                minor: 0,
                build: 22631,
                service_pack: 0,
                service_pack_name: "",
                build_lab: "22621.ni_release.220506-1250",
            },
        }
    }
}
