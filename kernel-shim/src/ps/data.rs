//! Variables of the process manager that drivers import.

use crate::api::nt_data;
use crate::raw::Word;

nt_data! { module = ps_data;
    /// The System process's EPROCESS.
    ntoskrnl both data(4, 8) implemented
    PsInitialSystemProcess: Word = 0;
}
