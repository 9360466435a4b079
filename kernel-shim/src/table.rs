//! The export table: every export of ntoskrnl.exe and hal.dll that the shim has.
//!
//! Numbers are positions in this table. They are the same in every build (exports of the other driver ABI keep
//! theirs), so the VMM, which links this crate natively, knows a guest image's numbers; [`FINGERPRINT`] guards that.

use crate::dispatch::Body;
use crate::export::{Convention, Coverage, Export, ExportKind, Machines, Module};
use crate::raw::{EntryPoint, low32};

macro_rules! modules {
    ($($slot:ident => $path:path;)*) => {
        /// The files that declare exports, in the table's order.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Slot { $($slot),* }

        const LENGTHS: &[usize] = &[$({ use $path as module; module::LEN }),*];

        /// The exports, in order.
        pub static EXPORTS: [Export; COUNT] = {
            let mut all = [NOTHING; COUNT];
            let mut next = 0;
            $({
                use $path as module;
                let part = module::EXPORTS;
                let mut i = 0;
                while i < part.len() { all[next] = part[i]; next += 1; i += 1; }
            })*
            all
        };

        /// What a call of each export runs.
        pub(crate) static BODIES: [Body; COUNT] = {
            let mut all: [Body; COUNT] = [nothing; COUNT];
            let mut next = 0;
            $({
                use $path as module;
                let part = module::BODIES;
                let mut i = 0;
                while i < part.len() { all[next] = part[i]; next += 1; i += 1; }
            })*
            all
        };

        /// What an import of each export is bound to. In memory an array of u64.
        pub static ENTRY_POINTS: [EntryPoint; COUNT] = {
            let mut all = [EntryPoint::NULL; COUNT];
            let mut next = 0;
            $({
                use $path as module;
                let part = module::ENTRY_POINTS;
                let mut i = 0;
                while i < part.len() { all[next] = part[i]; next += 1; i += 1; }
            })*
            all
        };
    };
}

modules! {
    ke_apc => crate::ke::apc::api_table;
    ke_bugcheck => crate::ke::bugcheck::api_table;
    ke_bugcheck_callback => crate::ke::bugcheck_callback::api_table;
    ke_data => crate::ke::data::data_table;
    ke_debugger => crate::ke::debugger::api_table;
    ke_debugger_data => crate::ke::debugger::data_table;
    ke_dpc => crate::ke::dpc::api_table;
    ke_dump => crate::ke::dump::api_table;
    ke_event => crate::ke::event::api_table;
    ke_fpu => crate::ke::fpu::api_table;
    ke_iopm => crate::ke::iopm::api_table;
    ke_irql => crate::ke::irql::api_table;
    ke_mutex => crate::ke::mutex::api_table;
    ke_priority => crate::ke::priority::api_table;
    ke_queue => crate::ke::queue::api_table;
    ke_spin_lock => crate::ke::spin_lock::api_table;
    ke_time => crate::ke::time::api_table;
    ke_timer => crate::ke::timer::api_table;
    ke_wait => crate::ke::wait::api_table;
    ke_processor => crate::ke::processor::api_table;
    ke_queued_lock => crate::ke::queued_lock::api_table;
    ex_callback => crate::ex::callback::api_table;
    ex_firmware => crate::ex::firmware::api_table;
    ex_fast_mutex => crate::ex::fast_mutex::api_table;
    ex_interlocked => crate::ex::interlocked::api_table;
    ex_interlocked_list => crate::ex::interlocked_list::api_table;
    ex_misc => crate::ex::misc::api_table;
    ex_lookaside => crate::ex::lookaside::api_table;
    ex_pool => crate::ex::pool_api::api_table;
    ex_push_lock => crate::ex::push_lock::api_table;
    ex_resource => crate::ex::resource_api::api_table;
    ex_rundown => crate::ex::rundown::api_table;
    ex_slist => crate::ex::slist::api_table;
    ex_spin_lock => crate::ex::spin_lock::api_table;
    ex_timer => crate::ex::timer::api_table;
    ex_work => crate::ex::work::api_table;
    ke_device_queue => crate::ke::device_queue::api_table;
    io_attach => crate::io::attach::api_table;
    io_build => crate::io::build::api_table;
    io_cancel => crate::io::cancel::api_table;
    io_control_file => crate::io::control_file::api_table;
    io_controller => crate::io::controller::api_table;
    io_interrupt => crate::io::interrupt::api_table;
    io_interrupt_ex => crate::io::interrupt_ex::api_table;
    io_load => crate::io::load::api_table;
    io_partial_mdl => crate::io::partial_mdl::api_table;
    io_wmi => crate::io::wmi::api_table;
    io_wmi_block => crate::io::wmi_block::api_table;
    io_csq => crate::io::csq::api_table;
    io_driver_extension => crate::io::driver_extension::api_table;
    io_error_log => crate::io::error_log::api_table;
    io_file_system => crate::io::file_system::api_table;
    io_misc => crate::io::misc::api_table;
    io_resources => crate::io::resources::api_table;
    io_shutdown => crate::io::shutdown::api_table;
    io_start_io => crate::io::start_io::api_table;
    io_timer => crate::io::timer::api_table;
    ob_callbacks => crate::ob::callbacks::api_table;
    ob_directory => crate::ob::directory::api_table;
    ob_event => crate::ob::event::api_table;
    ob_query => crate::ob::query::api_table;
    ob_types => crate::ob::types::data_table;
    io_device => crate::io::device::api_table;
    io_irp => crate::io::irp::api_table;
    io_mdl => crate::io::mdl::api_table;
    io_remove_lock => crate::io::remove_lock::api_table;
    io_work_item => crate::io::work_item::api_table;
    fs_lock => crate::fs::lock::api_table;
    mm_api => crate::mm::api::api_table;
    mm_contiguous => crate::mm::contiguous::api_table;
    mm_data => crate::mm::data::data_table;
    mm_mdl => crate::mm::mdl::api_table;
    mm_mdl_pages => crate::mm::mdl_pages::api_table;
    mm_reserved_mapping => crate::mm::reserved_mapping::api_table;
    mm_paging => crate::mm::paging::api_table;
    mm_validity => crate::mm::validity::api_table;
    mm_secure => crate::mm::secure::api_table;
    mm_virtual_memory => crate::mm::virtual_memory::api_table;
    mm_section => crate::mm::section::api_table;
    mm_view => crate::mm::section_view::api_table;
    ob_api => crate::ob::api::api_table;
    ps => crate::ps::api::api_table;
    ps_data => crate::ps::data::data_table;
    ps_notify => crate::ps::notify::api_table;
    seh => crate::seh::api::api_table;
    pnp_dispatch => crate::pnp::pdo::api_table;
    pnp_interface => crate::pnp::interface::api_table;
    pnp_notify => crate::pnp::notify::api_table;
    pnp_property => crate::pnp::property::api_table;
    pnp_report => crate::pnp::report::api_table;
    po_request => crate::po::request::api_table;
    po_setting => crate::po::setting::api_table;
    po_state => crate::po::state::api_table;
    rtl_ansi => crate::rtl::ansi::api_table;
    rtl_ansi_unicode => crate::rtl::ansi_unicode::api_table;
    rtl_arithmetic => crate::rtl::arithmetic::api_table;
    rtl_avl_table => crate::rtl::avl_table::api_table;
    rtl_bitmap => crate::rtl::bitmap::api_table;
    rtl_compiler => crate::rtl::compiler::code_table;
    rtl_compression => crate::rtl::compression::api_table;
    rtl_crt_ctype => crate::rtl::crt_ctype::api_table;
    rtl_crt_itoa => crate::rtl::crt_itoa::api_table;
    rtl_crt_narrow => crate::rtl::crt_narrow::api_table;
    rtl_crt_number => crate::rtl::crt_number::api_table;
    rtl_crt_print => crate::rtl::crt_print::api_table;
    rtl_crt_sort => crate::rtl::crt_sort::api_table;
    rtl_crt_wide => crate::rtl::crt_wide::api_table;
    rtl_dbg => crate::rtl::dbg::api_table;
    rtl_generic_table => crate::rtl::generic_table::api_table;
    rtl_large_integer => crate::rtl::large_integer::api_table;
    rtl_memory => crate::rtl::memory::api_table;
    rtl_misc => crate::rtl::misc::api_table;
    rtl_nls => crate::rtl::oem::data_table;
    rtl_number => crate::rtl::number::api_table;
    rtl_oem => crate::rtl::oem::api_table;
    rtl_prefix => crate::rtl::prefix::api_table;
    rtl_run_once => crate::rtl::run_once::api_table;
    rtl_splay => crate::rtl::splay::api_table;
    rtl_time => crate::rtl::time::api_table;
    rtl_unicode => crate::rtl::unicode::api_table;
    rtl_unicode_more => crate::rtl::unicode_more::api_table;
    rtl_utf8 => crate::rtl::utf8::api_table;
    se_access => crate::se::access::api_table;
    se_acl => crate::se::acl::api_table;
    se_descriptor => crate::se::descriptor::api_table;
    se_exports => crate::se::exports::data_table;
    se_assign => crate::se::assign::api_table;
    se_object => crate::se::object::api_table;
    se_share => crate::se::share::api_table;
    se_sid => crate::se::sid::api_table;
    se_subject => crate::se::subject::api_table;
    se_token => crate::se::token_api::api_table;
    cm_api => crate::cm::api::api_table;
    cm_callback => crate::cm::callback::api_table;
    cm_device => crate::cm::device::api_table;
    cm_rtl => crate::cm::rtl::api_table;
    cm_rtl_query => crate::cm::rtl_query::api_table;
    fs_api => crate::fs::api::api_table;
    fs_create => crate::fs::create::api_table;
    fsrtl_names => crate::fsrtl::names::api_table;
    fsrtl_legal => crate::fsrtl::legal::data_table;
    fsrtl_status => crate::fsrtl::status::api_table;
    fsrtl_pending => crate::fsrtl::pending::api_table;
    fsrtl_lock => crate::fsrtl::lock::api_table;
    fsrtl_ecp => crate::fsrtl::ecp::api_table;
    fsrtl_context => crate::fsrtl::context::api_table;
    fsrtl_misc => crate::fsrtl::misc::api_table;
    fsrtl_mup => crate::fsrtl::mup::api_table;
    fsrtl_oplock => crate::fsrtl::oplock::api_table;
    fsrtl_oplock_key => crate::fsrtl::oplock_key::api_table;
    fsrtl_notify => crate::fsrtl::notify::api_table;
    cc => crate::cc::api::api_table;
    cc_lazy => crate::cc::lazy::api_table;
    cc_pin => crate::cc::pin::api_table;
    cc_read_ahead => crate::cc::read_ahead::api_table;
    hal_bus => crate::hal::bus::api_table;
    hal_bus_data => crate::hal::bus_data::api_table;
    hal_dma => crate::hal::dma::api::api_table;
    hal_port => crate::hal::port::api_table;
    hal_register => crate::hal::register::api_table;
    view_data => crate::view::data::data_table;
    view_image => crate::view::image::api_table;
    view_modules => crate::view::modules::api_table;
    view_system_information => crate::view::system_information::api_table;
    view_version => crate::view::version::api_table;
    wdf_loader => crate::wdf::loader::api_table;
    wdf_object => crate::wdf::object_api::api_table;
    wdf_driver => crate::wdf::driver::api_table;
    wdf_device => crate::wdf::device::api_table;
    wdf_device_init => crate::wdf::device_init::api_table;
    wdf_queue => crate::wdf::queue_api::api_table;
    wdf_request => crate::wdf::request_api::api_table;
    wdf_buffers => crate::wdf::buffers::api_table;
    wdf_memory => crate::wdf::memory::api_table;
    wdf_deferred => crate::wdf::deferred::api_table;
    wdf_serial => crate::wdf::serial::api_table;
    wdf_sync => crate::wdf::sync::api_table;
    wdf_collection => crate::wdf::collection::api_table;
    wdf_registry => crate::wdf::registry::api_table;
    wdf_missing => crate::wdf::missing::api_table;
}

/// Number of exports.
pub const COUNT: usize = {
    let mut sum = 0;
    let mut i = 0;
    while i < LENGTHS.len() {
        sum += LENGTHS[i];
        i += 1;
    }
    sum
};

/// Number of a file's first export.
pub(crate) const fn base(slot: Slot) -> u32 {
    let mut sum = 0;
    let mut i = 0;
    while i < slot as usize {
        sum += LENGTHS[i];
        i += 1;
    }
    low32(sum as u64)
}

const NOTHING: Export = Export {
    name: "",
    module: Module::Either,
    machines: Machines::Both,
    kind: ExportKind::Data {
        bytes_i386: 0,
        bytes_amd64: 0,
    },
    coverage: Coverage::Missing,
    documentation: "",
};

fn nothing(_: &mut crate::dispatch::Call) -> u64 {
    0
}

/// FNV-1a over all names in order, each closed by NUL: equal exactly when two builds agree on all numbers.
pub const FINGERPRINT: u64 = {
    let mut hash: u64 = 0xCBF2_9CE4_8422_2325;
    let mut i = 0;
    while i < COUNT {
        let name = EXPORTS[i].name.as_bytes();
        let mut j = 0;
        while j <= name.len() {
            let byte = if j < name.len() { name[j] } else { 0 };
            hash = (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01B3);
            j += 1;
        }
        i += 1;
    }
    hash
};

/// The number of the export of that exact name.
#[must_use]
pub fn find(name: &str) -> Option<u32> {
    EXPORTS
        .iter()
        .position(|export| export.name == name)
        .map(|position| low32(position as u64))
}

/// The addresses that imports are bound to; index as in [`EXPORTS`].
#[must_use]
pub fn entry_points() -> &'static [EntryPoint] {
    &ENTRY_POINTS
}

/// Bytes of arguments that an i386 callee pops, from the declaration alone.
#[must_use]
pub fn i386_pop(export: &Export) -> u32 {
    let ExportKind::Function {
        convention,
        parameters,
        ..
    } = export.kind
    else {
        return 0;
    };
    let mut registers = match convention {
        Convention::Cdecl => return 0,
        Convention::Stdcall => 0,
        Convention::Fastcall => 2,
    };
    let mut bytes = 0;
    for parameter in parameters {
        let width = parameter.kind.bytes(abi::DriverAbi::I386);
        if width <= 4 && registers > 0 {
            registers -= 1;
        } else {
            bytes += if width == 8 { 8 } else { 4 };
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let mut seen = BTreeSet::new();
        for export in &EXPORTS {
            assert!(
                seen.insert(export.name),
                "{} is declared twice",
                export.name
            );
        }
    }

    #[test]
    fn every_export_is_documented_and_found() {
        for (number, export) in EXPORTS.iter().enumerate() {
            assert!(
                !export.documentation.trim().is_empty(),
                "{} has no documentation",
                export.name
            );
            assert_eq!(find(export.name), u32::try_from(number).ok());
        }
        assert_eq!(find("NoSuchExport"), None);
    }

    #[test]
    fn entry_points_exist_for_what_this_abi_has() {
        for (export, entry) in EXPORTS.iter().zip(entry_points()) {
            let is_function = matches!(export.kind, ExportKind::Function { .. });
            let expected = !is_function || export.machines.has(abi::DriverAbi::Amd64);
            assert_eq!(entry.addr() != 0, expected, "{}", export.name);
        }
    }
}
