//! Declaring exports: [`nt_api!`] for functions, [`nt_data!`] for variables, [`nt_code!`] for code that drivers run as it
//! is.
//!
//! # How to add one
//!
//! 1. Write the declaration in the file of its subject, inside that file's `nt_api! { module = NAME; ... }` (one
//!    per file). A new file also needs its line in the list of modules in `table.rs`, `NAME => crate::path;`.
//! 2. A declaration is: doc comment; DLL (`ntoskrnl`, `hal`, `either`); machines (`both`, `i386`, `amd64`); i386
//!    convention (`stdcall`, `fastcall`, `cdecl`); `irql(LIMIT)` from the WDK page (a constant of
//!    [`crate::nt`]; `ANY_LEVEL` for "any"); coverage (`implemented`, `partial("what is missing")`, `missing`);
//!    then the function with types that implement [`crate::value::Value`], and its body:
//!
//! ```text
//! nt_api! { module = ke_event;
//!     /// KeReadStateEvent: the event's signal state.
//!     ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
//!     fn KeReadStateEvent(event: Ptr<KEVENT>) -> Long { event.read().Header.SignalState }
//!
//!     /// DbgPrint.
//!     ntoskrnl both cdecl irql(ANY_LEVEL) implemented
//!     fn DbgPrint(format: NarrowStringPtr, arguments: VaList) -> NtStatus { ... }
//!
//!     /// KeBugCheck.
//!     ntoskrnl both stdcall irql(ANY_LEVEL) implemented
//!     fn KeBugCheck(code: ULong) -> NoReturn { bugcheck(...) }
//!
//!     /// CcCopyRead.
//!     ntoskrnl both stdcall irql(APC_LEVEL) missing
//!     fn CcCopyRead(file: Ptr<u8>, offset: Ptr<u8>, bytes: ULong, wait: Boolean) -> Boolean {}
//! }
//! ```
//!
//! Variable arguments are a last parameter of type [`crate::value::VaList`]; a function that never returns has the
//! result [`crate::value::NoReturn`]. The body may use [`crate::shared::caller`], the driver's return address.
//! The declared function is an ordinary Rust function of that name in the file: other shim code calls it directly, with
//! no trace record and no IRQL check.
//!
//! A function that drivers call very often may have a fast path on amd64, `fast(PATH)` before `fn`: a function with the
//! same parameters that returns `Option` of the result. `None` means that it has changed nothing, and the ordinary body
//! does the call. It may not bugcheck, wait or call the driver, and touches
//! driver memory at DISPATCH_LEVEL or above, or at addresses of kernel space ([`crate::shared::is_kernel`]) only: a fault
//! there is a bugcheck, never an exception for a handler. Whatever is out of the ordinary is the ordinary body's. It is
//! fast only if all of it is inlined (`#[inline(always)]`, no arithmetic that can panic, of [`crate::raw::Global`] only
//! `try_use`): one call of a function makes the compiler save ten vector registers. A path that lowers IRQL or ends a
//! region without APCs has to look at `sched::ATTENTION`, or an APC, a DPC or a better thread would wait for the next
//! call. `bare(PATH)` is the same without a record: the flight recorder does not know these calls. For functions that
//! drivers call so often that they would push everything else out of it.
//! `leaf(PATH)` is for a function without parameters that only reads a variable: PATH returns the result, and calls
//! are not recorded unless there is a complete trace.
//! `entry(CODE)` is for the one or two functions where even a bare path is too much: CODE is a naked function of
//! [`crate::raw`] with the export's number as its constant, which does the ordinary case and jumps to the ordinary path
//! for all else. No shim code is marked as running, so it has to be right whatever interrupts it.
//!
//! Everything else follows: the entry code, argument decoding for both ABIs, trace, IRQL check, and the
//! [`crate::export::Export`] entry that host tools read.

/// Declares the exported functions of a file. See [the module](self).
macro_rules! nt_api {
    (
        module = $module:ident;
        $(
            $(#[doc = $doc:literal])*
            $dll:ident $machines:ident $convention:ident irql($irql:ident) $coverage:ident $(($lacks:literal))?
            $(fast($fast:path))? $(bare($bare:path))? $(leaf($leaf:path))? $(entry($entry:ident))?
            fn $name:ident($($parameter:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
        )*
    ) => {
        $(
            $(#[doc = $doc])*
            pub fn $name($($parameter: $type),*) $(-> $result)? {
                $crate::api::nt_body!($coverage $name ($($parameter)*) $body)
            }
        )*

        /// What the export table takes from this file.
        pub(crate) mod api_table {
            use super::*;
            use $crate::export::{Convention, Coverage, Export, ExportKind, Machines, Module, Parameter};
            use $crate::value::Value;

            #[derive(Clone, Copy)]
            enum Position { $($name),* }

            pub(crate) const LEN: usize = [$(Position::$name),*].len();

            pub(crate) const EXPORTS: [Export; LEN] = [$(Export {
                name: stringify!($name),
                module: $crate::api::nt_word!($dll),
                machines: $crate::api::nt_word!($machines),
                kind: ExportKind::Function {
                    convention: $crate::api::nt_word!($convention),
                    parameters: {
                        const ALL: &[Parameter] = &[$(Parameter {
                            name: stringify!($parameter),
                            kind: <$type as Value>::KIND,
                        }),*];
                        const VARIADIC: bool = false $(|| <$type as Value>::IS_VARIADIC)*;
                        const DECLARED: &[Parameter] = if VARIADIC { ALL.split_at(ALL.len() - 1).0 } else { ALL };
                        DECLARED
                    },
                    result: <$crate::api::nt_result!($($result)?) as Value>::KIND,
                    irql_max: $crate::nt::$irql,
                    is_variadic: false $(|| <$type as Value>::IS_VARIADIC)*,
                    is_noreturn: <$crate::api::nt_result!($($result)?) as Value>::IS_NORETURN,
                },
                coverage: $crate::api::nt_coverage!($coverage $($lacks)?),
                documentation: $crate::api::nt_documentation!($($doc)*),
            }),*];

            pub(crate) const BODIES: [$crate::dispatch::Body; LEN] = [$(
                |_call| {
                    $(let $parameter = <$type as Value>::take(_call);)*
                    Value::to_word(super::$name($($parameter),*))
                }
            ),*];

            pub(crate) const ENTRY_POINTS: [$crate::raw::EntryPoint; LEN] = [$(
                $crate::api::nt_entry!(
                    $machines,
                    { $crate::table::base($crate::table::Slot::$module) + Position::$name as u32 },
                    [$(fast $fast)? $(bare $bare)? $(leaf $leaf)? $(entry $entry)?], $crate::nt::$irql, ($($parameter: $type),*)
                )
            ),*];
        }
    };
}

/// Declares the exported variables of a file: DLL, machines, `data(bytes on i386, bytes on amd64)`, name, type and first
/// value. Each becomes a static [`crate::raw::DataCell`] of that name. See [the module](self).
macro_rules! nt_data {
    (
        module = $module:ident;
        $(
            $(#[doc = $doc:literal])*
            $dll:ident $machines:ident data($i386:literal, $amd64:literal) $coverage:ident $(($lacks:literal))?
            $name:ident: $type:ty = $value:expr;
        )*
    ) => {
        $(
            $(#[doc = $doc])*
            pub static $name: $crate::raw::DataCell<$type> = $crate::raw::DataCell::new($value);
            const _: () = assert!(
                size_of::<$type>() == if cfg!(nt_i386) { $i386 } else { $amd64 },
                concat!("the declared size of ", stringify!($name)),
            );
        )*

        /// What the export table takes from this file's variables.
        pub(crate) mod data_table {
            use $crate::export::{Coverage, Export, ExportKind, Machines, Module};

            const _: $crate::table::Slot = $crate::table::Slot::$module;

            pub(crate) const LEN: usize = [$(stringify!($name)),*].len();

            pub(crate) const EXPORTS: [Export; LEN] = [$(Export {
                name: stringify!($name),
                module: $crate::api::nt_word!($dll),
                machines: $crate::api::nt_word!($machines),
                kind: ExportKind::Data { bytes_i386: $i386, bytes_amd64: $amd64 },
                coverage: $crate::api::nt_coverage!($coverage $($lacks)?),
                documentation: $crate::api::nt_documentation!($($doc)*),
            }),*];

            pub(crate) const BODIES: [$crate::dispatch::Body; LEN] =
                [$({ let _ = stringify!($name); |_| 0 }),*];

            pub(crate) const ENTRY_POINTS: [$crate::raw::EntryPoint; LEN] =
                [$($crate::raw::EntryPoint::new(super::$name.raw())),*];
        }
    };
}

/// Declares exports that are code of their own: an import leads to `code`, a naked function, and nothing of the shim
/// runs. They are what takes arguments or returns results in ways that [`crate::dispatch`] cannot see. The parameters are
/// those on the stack. See [the module](self).
macro_rules! nt_code {
    (
        module = $module:ident;
        $(
            $(#[doc = $doc:literal])*
            $dll:ident $machines:ident $convention:ident
            $name:ident($($parameter:ident: $type:ty),*) $(-> $result:ty)? = $code:ident;
        )*
    ) => {
        /// What the export table takes from this file's code.
        pub(crate) mod code_table {
            use super::*;
            use $crate::export::{Convention, Coverage, Export, ExportKind, Machines, Module, Parameter};
            use $crate::value::Value;

            const _: $crate::table::Slot = $crate::table::Slot::$module;

            pub(crate) const LEN: usize = [$(stringify!($name)),*].len();

            pub(crate) const EXPORTS: [Export; LEN] = [$(Export {
                name: stringify!($name),
                module: $crate::api::nt_word!($dll),
                machines: $crate::api::nt_word!($machines),
                kind: ExportKind::Function {
                    convention: $crate::api::nt_word!($convention),
                    parameters: &[$(Parameter {
                        name: stringify!($parameter),
                        kind: <$type as Value>::KIND,
                    }),*],
                    result: <$crate::api::nt_result!($($result)?) as Value>::KIND,
                    irql_max: $crate::nt::ANY_LEVEL,
                    is_variadic: false,
                    is_noreturn: false,
                },
                coverage: Coverage::Implemented,
                documentation: $crate::api::nt_documentation!($($doc)*),
            }),*];

            pub(crate) const BODIES: [$crate::dispatch::Body; LEN] = [$(
                |_| panic!(concat!(stringify!($name), " was dispatched, which is code of its own"))
            ),*];

            pub(crate) const ENTRY_POINTS: [$crate::raw::EntryPoint; LEN] =
                [$($crate::api::nt_code_entry!($machines $code)),*];
        }
    };
}

macro_rules! nt_body {
    (missing $name:ident ($($parameter:ident)*) $body:block) => {{
        $(let _ = $parameter;)*
        $crate::dispatch::missing_export(stringify!($name))
    }};
    ($coverage:ident $name:ident ($($parameter:ident)*) $body:block) => {{
        // Not every body looks at every parameter that NT declares.
        $(let _ = &$parameter;)*
        $body
    }};
}

macro_rules! nt_word {
    (ntoskrnl) => {
        Module::Ntoskrnl
    };
    (hal) => {
        Module::Hal
    };
    (either) => {
        Module::Either
    };
    (wdfldr) => {
        Module::Wdfldr
    };
    (wdf) => {
        Module::Wdf
    };
    (both) => {
        Machines::Both
    };
    (i386) => {
        Machines::I386
    };
    (amd64) => {
        Machines::Amd64
    };
    (stdcall) => {
        Convention::Stdcall
    };
    (fastcall) => {
        Convention::Fastcall
    };
    (cdecl) => {
        Convention::Cdecl
    };
}

macro_rules! nt_result {
    () => {
        ()
    };
    ($type:ty) => {
        $type
    };
}

macro_rules! nt_coverage {
    (implemented) => {
        Coverage::Implemented
    };
    (partial $lacks:literal) => {
        Coverage::Partial($lacks)
    };
    (missing) => {
        Coverage::Missing
    };
}

/// The documentation costs the guest image nothing.
#[cfg(guest)]
macro_rules! nt_documentation {
    ($($doc:literal)*) => {
        ""
    };
}
/// The documentation, for host tools: lines, each with the blank that follows `///`.
#[cfg(not(guest))]
macro_rules! nt_documentation {
    ($($doc:literal)*) => { concat!($($doc, "\n"),*) };
}

/// i386 drivers reach functions by number; their import stubs need no entry code.
#[cfg(nt_i386)]
macro_rules! nt_entry {
    ($machines:ident, $index:expr, [], $irql:expr, $parameters:tt) => {{
        const _: u32 = $index;
        $crate::raw::EntryPoint::NULL
    }};
    ($machines:ident, $index:expr, [entry $entry:ident], $irql:expr, $parameters:tt) => {{
        const _: u32 = $index;
        $crate::raw::EntryPoint::NULL
    }};
    ($machines:ident, $index:expr, [$speed:ident $fast:path], $irql:expr, ($($parameter:ident: $type:ty),*)) => {{
        // Used on amd64 only.
        let _ = $fast;
        const _: u32 = $index;
        $crate::raw::EntryPoint::NULL
    }};
}
/// The amd64 entry code of an export.
#[cfg(not(nt_i386))]
macro_rules! nt_entry {
    (i386, $index:expr, [], $irql:expr, $parameters:tt) => {{
        const _: u32 = $index;
        $crate::raw::EntryPoint::NULL
    }};
    ($machines:ident, $index:expr, [], $irql:expr, $parameters:tt) => {
        $crate::raw::EntryPoint::new($crate::raw::api_entry::<$index> as *const ())
    };
    ($machines:ident, $index:expr, [fast $fast:path], $irql:expr, ($($parameter:ident: $type:ty),*)) => {{
        const COUNT: usize = {
            let names: &[&str] = &[$(stringify!($parameter)),*];
            names.len()
        };
        struct Path;
        impl $crate::raw::FastPath for Path {
            extern "win64" fn run(first: u64, second: u64, third: u64, stack: u64) -> u64 {
                const INDEX: u32 = $index;
                let words = $crate::dispatch::fast_arguments::<COUNT>([first, second, third], stack);
                let caller = $crate::raw::volatile_read(stack);
                $crate::dispatch::run_fast(INDEX, $irql, caller, words, || {
                    let mut _words = words.into_iter();
                    $(let $parameter = <$type as Value>::from_word(_words.next().unwrap_or(0));)*
                    $fast($($parameter),*).map(Value::to_word)
                })
            }
        }
        $crate::raw::EntryPoint::new($crate::raw::fast_entry::<$index, COUNT, Path> as *const ())
    }};
    ($machines:ident, $index:expr, [bare $bare:path], $irql:expr, ($($parameter:ident: $type:ty),*)) => {{
        const COUNT: usize = {
            let names: &[&str] = &[$(stringify!($parameter)),*];
            names.len()
        };
        struct Path;
        impl $crate::raw::FastPath for Path {
            extern "win64" fn run(first: u64, second: u64, third: u64, stack: u64) -> u64 {
                $crate::dispatch::run_bare($irql, || {
                    let words = $crate::dispatch::fast_arguments::<COUNT>([first, second, third], stack);
                    let mut _words = words.into_iter();
                    $(let $parameter = <$type as Value>::from_word(_words.next().unwrap_or(0));)*
                    $bare($($parameter),*).map(Value::to_word)
                })
            }
        }
        $crate::raw::EntryPoint::new($crate::raw::fast_entry::<$index, COUNT, Path> as *const ())
    }};
    ($machines:ident, $index:expr, [entry $entry:ident], $irql:expr, $parameters:tt) => {
        $crate::raw::EntryPoint::new($crate::raw::$entry::<$index> as *const ())
    };
    ($machines:ident, $index:expr, [leaf $leaf:path], $irql:expr, ()) => {{
        struct Path;
        impl $crate::raw::FastPath for Path {
            extern "win64" fn run(_: u64, _: u64, _: u64, _: u64) -> u64 {
                const _: () = assert!($irql == $crate::nt::ANY_LEVEL, "nobody checks it");
                Value::to_word($leaf())
            }
        }
        $crate::raw::EntryPoint::new($crate::raw::leaf_entry::<$index, Path> as *const ())
    }};
}

/// Code of an export's own, where this ABI has it.
#[cfg(nt_i386)]
macro_rules! nt_code_entry {
    (i386 $code:ident) => {
        $crate::raw::EntryPoint::new($crate::raw::compiler::$code as *const ())
    };
    (amd64 $code:ident) => {
        $crate::raw::EntryPoint::NULL
    };
}
/// Code of an export's own, where this ABI has it.
#[cfg(not(nt_i386))]
macro_rules! nt_code_entry {
    (amd64 $code:ident) => {
        $crate::raw::EntryPoint::new($crate::raw::compiler::$code as *const ())
    };
    (i386 $code:ident) => {
        $crate::raw::EntryPoint::NULL
    };
}

pub(crate) use {
    nt_api, nt_body, nt_code, nt_code_entry, nt_coverage, nt_data, nt_documentation, nt_entry,
    nt_result, nt_word,
};
