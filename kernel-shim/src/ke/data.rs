//! Variables of the kernel that drivers import.

use crate::api::nt_data;
use crate::nt::KSYSTEM_TIME;

nt_data! { module = ke_data;
    /// Ticks since boot (64 a second).
    ntoskrnl both data(12, 12) implemented
    KeTickCount: KSYSTEM_TIME = KSYSTEM_TIME { LowPart: 0, High1Time: 0, High2Time: 0 };

    /// Number of processors: always 1.
    ntoskrnl both data(1, 1) implemented
    KeNumberProcessors: u8 = 1;
}
