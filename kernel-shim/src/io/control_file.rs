//! Device I/O by handle, as drivers call it.

use super::open::{DeviceIo, Operation, device_io};
use crate::api::nt_api;
use crate::nt::{IO_STATUS_BLOCK, NtStatus};
use crate::raw::Ptr;
use crate::value::{Handle, ULong};

/// The arguments of a control request in their order.
struct Control {
    code: u32,
    input: Ptr<u8>,
    input_bytes: u32,
    output: Ptr<u8>,
    output_bytes: u32,
}

fn control(
    file: Handle,
    event: Handle,
    block: Ptr<IO_STATUS_BLOCK>,
    apc: [Ptr<u8>; 2],
    control: &Control,
    is_device: bool,
) -> NtStatus {
    let (input, output) = (control.input.addr(), control.output.addr());
    let (code, in_bytes, out_bytes) = (control.code, control.input_bytes, control.output_bytes);
    let operation = if is_device {
        Operation::DeviceControl(code, input, in_bytes, output, out_bytes)
    } else {
        Operation::FileSystemControl(code, input, in_bytes, output, out_bytes)
    };
    device_io(&DeviceIo {
        handle: file.0,
        event: event.0,
        block,
        apc,
        operation,
    })
}

macro_rules! control_functions {
    ($module:ident; $($(#[doc = $doc:literal])* $name:ident $is_device:literal;)*) => {
        nt_api! { module = $module;
            $(
                $(#[doc = $doc])*
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
                fn $name(
                    file_handle: Handle,
                    event: Handle,
                    apc_routine: Ptr<u8>,
                    apc_context: Ptr<u8>,
                    io_status_block: Ptr<IO_STATUS_BLOCK>,
                    control_code: ULong,
                    input_buffer: Ptr<u8>,
                    input_buffer_length: ULong,
                    output_buffer: Ptr<u8>,
                    output_buffer_length: ULong,
                ) -> NtStatus {
                    let arguments = Control {
                        code: control_code,
                        input: input_buffer,
                        input_bytes: input_buffer_length,
                        output: output_buffer,
                        output_bytes: output_buffer_length,
                    };
                    control(file_handle, event, io_status_block, [apc_routine, apc_context], &arguments, $is_device)
                }
            )*
        }
    };
}

control_functions! { io_control_file;
    /// Sends IRP_MJ_DEVICE_CONTROL to an open device.
    ZwDeviceIoControlFile true;
    /// Sends IRP_MJ_DEVICE_CONTROL to an open device.
    NtDeviceIoControlFile true;
    /// Sends IRP_MJ_FILE_SYSTEM_CONTROL to an open device.
    ZwFsControlFile false;
    /// Sends IRP_MJ_FILE_SYSTEM_CONTROL to an open device.
    NtFsControlFile false;
}
