//! Fields of the KPCR and KPRCB that say which processor and kernel this is, and the debugger's version block.

use super::{data, exported, release};
use crate::ex::pool;
use crate::raw::{Ptr, Word, low16, to_word};
use crate::shared;
use abi::layout;

/// DBGKD_GET_VERSION64: what a kernel debugger asks for first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DBGKD_GET_VERSION64 {
    /// 15: a free build.
    pub MajorVersion: u16,
    /// Build.
    pub MinorVersion: u16,
    /// Of the KD protocol.
    pub ProtocolVersion: u8,
    /// Of the KD protocol.
    pub KdSecondaryVersion: u8,
    /// DBGKD_VERS_FLAG_ bits.
    pub Flags: u16,
    /// IMAGE_FILE_MACHINE_.
    pub MachineType: u16,
    /// Number of packet types.
    pub MaxPacketType: u8,
    /// Number of state changes.
    pub MaxStateChange: u8,
    /// Number of manipulation requests.
    pub MaxManipulate: u8,
    /// 0: a real machine.
    pub Simulation: u8,
    /// Not used.
    pub Unused: u16,
    /// First address of ntoskrnl.exe; i386 addresses are sign-extended.
    pub KernBase: u64,
    /// Address of PsLoadedModuleList.
    pub PsLoadedModuleList: u64,
    /// Address of the list of debugger data blocks: none.
    pub DebuggerDataList: u64,
}

const _: () = assert!(size_of::<DBGKD_GET_VERSION64>() == 0x28);

/// DBGKD_VERS_FLAG_DATA, and _PTR64 for amd64.
const FLAGS: u16 = if cfg!(nt_i386) { 2 } else { 2 | 4 };
const MACHINE: u16 = if cfg!(nt_i386) { 0x014C } else { 0x8664 };

/// An address as the debugger protocol has it.
fn extended(address: u64) -> u64 {
    if cfg!(nt_i386) && address >> 31 != 0 {
        address | 0xFFFF_FFFF_0000_0000
    } else {
        address
    }
}

/// Fills the fields.
pub(crate) fn initialize() {
    let pcr = shared::kernel_base() + layout::PCR;
    let word = |offset: u64, value: u64| Ptr::<Word>::new(pcr + offset).write(to_word(value));
    let half = |offset: u64, value: u16| Ptr::<u16>::new(pcr + offset).write(value);
    let dword = |offset: u64, value: u32| Ptr::<u32>::new(pcr + offset).write(value);
    let descriptors = shared::kernel_base() + layout::DESCRIPTORS;
    let block = version_block();
    let megahertz = u32::try_from(shared::tsc_khz() / 1000).unwrap_or(u32::MAX);
    if cfg!(nt_i386) {
        word(0x34, block); // KdVersionBlock
        word(0x38, descriptors + layout::PAGE_SIZE); // IDT
        word(0x3C, descriptors); // GDT
        word(0x40, shared::kernel_base() + layout::TSS);
        half(0x44, 1); // MajorVersion
        half(0x46, 1); // MinorVersion
        dword(0x48, 1); // SetMember
        dword(0x4C, megahertz); // StallScaleFactor
        half(0x120, 1); // PrcbData.MinorVersion
        half(0x122, 1); // PrcbData.MajorVersion
        dword(0x134, 1); // PrcbData.SetMember
    } else {
        word(0x00, descriptors); // GdtBase
        word(0x38, descriptors + layout::PAGE_SIZE); // IdtBase
        half(0x60, 1); // MajorVersion
        half(0x62, 1); // MinorVersion
        dword(0x64, megahertz); // StallScaleFactor
        word(0x108, block); // KdVersionBlock
        dword(0x180, 0x1F80); // Prcb.MxCsr
    }
}

/// The address of a DBGKD_GET_VERSION64; 0 when the pool is exhausted.
fn version_block() -> u64 {
    let bytes = size_of::<DBGKD_GET_VERSION64>() as u64;
    let Some(block) = pool::allocate_zeroed(bytes, *b"KdVB") else {
        return 0;
    };
    block.cast().write(DBGKD_GET_VERSION64 {
        MajorVersion: 0x000F,
        MinorVersion: low16(u64::from(release().build)),
        ProtocolVersion: 6,
        KdSecondaryVersion: 2,
        Flags: FLAGS,
        MachineType: MACHINE,
        MaxPacketType: 12,
        MaxStateChange: 3,
        MaxManipulate: 0x33,
        Simulation: 0,
        Unused: 0,
        KernBase: extended(shared::kernel_base() + layout::NTOSKRNL),
        PsLoadedModuleList: extended(exported(&data::PsLoadedModuleList).addr()),
        DebuggerDataList: 0,
    });
    block.addr()
}
