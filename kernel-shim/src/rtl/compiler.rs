//! What compilers call: 64-bit arithmetic on i386, stack probes. The code is in [`crate::raw`].

use crate::api::nt_code;
use crate::value::{LargeInteger, ULongLong};

nt_code! { module = rtl_compiler;
    /// 64-bit multiplication.
    ntoskrnl i386 stdcall
    _allmul(multiplicand: LargeInteger, multiplier: LargeInteger) -> LargeInteger = allmul;

    /// Signed 64-bit division. A divisor of 0 is an exception, as in all divisions here.
    ntoskrnl i386 stdcall
    _alldiv(dividend: LargeInteger, divisor: LargeInteger) -> LargeInteger = alldiv;

    /// Unsigned 64-bit division.
    ntoskrnl i386 stdcall
    _aulldiv(dividend: ULongLong, divisor: ULongLong) -> ULongLong = aulldiv;

    /// Signed 64-bit remainder.
    ntoskrnl i386 stdcall
    _allrem(dividend: LargeInteger, divisor: LargeInteger) -> LargeInteger = allrem;

    /// Unsigned 64-bit remainder.
    ntoskrnl i386 stdcall
    _aullrem(dividend: ULongLong, divisor: ULongLong) -> ULongLong = aullrem;

    /// Signed division with remainder in EBX:ECX.
    ntoskrnl i386 stdcall
    _alldvrm(dividend: LargeInteger, divisor: LargeInteger) -> LargeInteger = alldvrm;

    /// Unsigned division with remainder in EBX:ECX.
    ntoskrnl i386 stdcall
    _aulldvrm(dividend: ULongLong, divisor: ULongLong) -> ULongLong = aulldvrm;

    /// Shifts EDX:EAX left by CL.
    ntoskrnl i386 stdcall
    _allshl() -> ULongLong = allshl;

    /// Shifts EDX:EAX right by CL, keeping the sign.
    ntoskrnl i386 stdcall
    _allshr() -> ULongLong = allshr;

    /// Shifts EDX:EAX right by CL.
    ntoskrnl i386 stdcall
    _aullshr() -> ULongLong = aullshr;

    /// Takes EAX bytes of stack, page by page.
    ntoskrnl i386 cdecl
    _chkstk() = chkstk;

    /// Takes EAX bytes of stack, page by page.
    ntoskrnl i386 cdecl
    _alloca_probe() = chkstk;

    /// Takes EAX bytes of stack, page by page, and aligns ESP to 8 bytes.
    ntoskrnl i386 cdecl
    _alloca_probe_8() = alloca_probe_8;

    /// Takes EAX bytes of stack, page by page, and aligns ESP to 16 bytes.
    ntoskrnl i386 cdecl
    _alloca_probe_16() = alloca_probe_16;

    /// Touches the pages of the RAX bytes of stack that a function is about to take.
    ntoskrnl amd64 cdecl
    __chkstk() = chkstk64;
}
