//! KeBugCheck and KeBugCheckEx.

use crate::api::nt_api;
use crate::nt::bugcheck::bugcheck;
use crate::value::{NoReturn, Size, ULong};

nt_api! { module = ke_bugcheck;
    /// Stops the guest with a bugcheck code and four parameters.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeBugCheckEx(code: ULong, parameter_1: Size, parameter_2: Size, parameter_3: Size, parameter_4: Size) -> NoReturn {
        bugcheck(code, [parameter_1.0, parameter_2.0, parameter_3.0, parameter_4.0])
    }

    /// Stops the guest with a bugcheck code.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeBugCheck(code: ULong) -> NoReturn {
        bugcheck(code, [0; 4])
    }
}
