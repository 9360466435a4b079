//! The shim's life: boot, requests, shutdown.

use crate::io::{buffers, driver, file, request};
use crate::ke::{iopm, sched, time, timer};
use crate::nt::{NtStatus, PASSIVE_LEVEL};
use crate::platform::{Platform, PortAccess};
use crate::raw::{low8, low16, low32, to_usize};
use crate::{client, cm, ex, fs, io, ke, ob, ps, se, shared, view};
use abi::channel::{Completion, Operation, Request};
use abi::crash::{CrashKind, Registers};
use abi::doorbell::Call;
use abi::trace::TraceKind;

/// A request of the shim's own, for [`request::release_late`]: its operation is no [`Operation`].
const CLOSE_LATE: Request = Request {
    id: 0,
    operation: u32::MAX,
    process: 0,
    arguments: [0; 6],
};

/// Starts the shim on a machine whose shared pages hold the boot information, and serves requests until
/// [`Operation::Shutdown`].
pub fn boot(platform: &'static dyn Platform) -> ! {
    shared::set_platform(platform);
    initialize();
    loop {
        serve_one_or_idle();
    }
}

/// Puts everything into its first state.
pub(crate) fn initialize() {
    let version = shared::version();
    if version != abi::VERSION {
        shim_panic(format_args!(
            "the VMM speaks version {version}, this image {}",
            abi::VERSION
        ));
    }
    shared::set_irql(PASSIVE_LEVEL);
    shared::set_depth(1);
    crate::mm::data::MmSystemRangeStart
        .ptr()
        .write(crate::raw::to_word(shared::kernel_base()));
    ex::pool::initialize();
    crate::mm::address_space::initialize();
    crate::mm::locked::initialize();
    crate::mm::secure::initialize();
    crate::mm::mdl_mapping::initialize();
    crate::mm::io_space::initialize();
    crate::mm::section::initialize();
    crate::mm::section_view::initialize();
    client::initialize();
    ob::initialize();
    ps::initialize();
    se::initialize();
    io::initialize();
    crate::hal::dma::initialize();
    crate::wdf::initialize();
    ke::initialize();
    crate::rtl::oem::initialize();
    ex::initialize();
    cm::initialize();
    fs::initialize();
    crate::fsrtl::initialize();
    crate::cc::initialize();
    view::initialize();
    crate::pnp::initialize();
    crate::po::initialize();
}

/// Runs what can run; then hands out the next request, or idles when there is none. On the idle thread.
fn serve_one_or_idle() {
    sched::run_ready();
    if request::has_late() && ps::client::serve(&CLOSE_LATE).is_ok() {
        // On a System thread, before anything else.
    } else if let Some(request) = shared::next_request() {
        serve(&request);
    } else if !client::attend(serve) {
        client::look(idle);
    }
}

/// Lets the VMM have the processor until a request comes or a timer is due.
fn idle() {
    let since = time::interrupt_time();
    shared::platform().doorbell(Call::Idle, [timer::next_due(), 0, 0, 0, 0, 0]);
    time::update();
    time::add_idle(time::interrupt_time().saturating_sub(since));
    timer::expire();
}

/// The idle thread waits: the others run meanwhile.
pub(crate) fn wait_on_idle_thread(is_over: impl Fn() -> bool) {
    loop {
        sched::run_ready();
        if is_over() {
            return;
        }
        idle();
    }
}

/// Hands a request to a thread of its process. Port accesses, which neither block nor call the driver, are answered here.
pub(crate) fn serve(request: &Request) {
    let served = match Operation::from_number(request.operation) {
        Some(Operation::PortIn | Operation::PortOut | Operation::Shutdown) | None => {
            time::update();
            post(request, answer(request));
            return;
        }
        Some(_) => ps::client::serve(request),
    };
    if let Err(status) = served {
        post(request, Some(Err(status)));
    }
}

/// Answers a request, on a thread of its process. What is not answered here is answered when the driver completes its
/// IRP.
pub(crate) fn answer_on_thread(request: &Request) {
    time::update();
    if request.operation == CLOSE_LATE.operation {
        request::release_late();
        return;
    }
    client::memory::set_view(client::view_of(request.id));
    post(request, answer(request));
}

fn post(request: &Request, answer: Option<Result<u64, NtStatus>>) {
    let Some(answer) = answer else { return };
    let (status, value) = match answer {
        Ok(value) => (NtStatus::SUCCESS, value),
        Err(status) => (status, 0),
    };
    shared::post(&Completion {
        id: request.id,
        status: status.0,
        reserved: 0,
        information: 0,
        value,
    });
}

fn to_result(status: NtStatus) -> Result<u64, NtStatus> {
    if status.is_success() {
        Ok(0)
    } else {
        Err(status)
    }
}

/// The answer to a request; `None`: it is on its way through a driver.
fn answer(request: &Request) -> Option<Result<u64, NtStatus>> {
    let arguments = &request.arguments;
    let Some(operation) = Operation::from_number(request.operation) else {
        return Some(Err(NtStatus::INVALID_PARAMETER));
    };
    Some(match operation {
        Operation::LoadDriver => {
            let [base, bytes, entry, name, name_bytes, _] = *arguments;
            file::client_text(name, name_bytes)
                .and_then(|name| io::load::start(base, bytes, entry, &name))
        }
        Operation::OfferDriver => {
            let [base, bytes, entry, name, name_bytes, _] = *arguments;
            file::client_text(name, name_bytes).map(|name| {
                io::load::offer(base, bytes, entry, &name);
                0
            })
        }
        Operation::Pnp => crate::pnp::step::perform_by_number(arguments[0], arguments[1]),
        Operation::Power => crate::pnp::step::node_by_number(arguments[0])
            .ok_or(NtStatus::NO_SUCH_DEVICE)
            .and_then(|node| {
                let [_, kind, state, ..] = arguments.map(low32);
                crate::po::request::set_stack(node.pdo, kind, state)
            }),
        Operation::AddResource => crate::pnp::resources::assign(*arguments),
        Operation::PrepareDevice => Ok(crate::pnp::identity::prepare(arguments[0] != 0)),
        Operation::DeviceText => file::client_text(arguments[1], arguments[2])
            .and_then(|text| crate::pnp::identity::name(arguments[0], &text)),
        Operation::ListDevices => {
            return write_out(request, crate::pnp::list::text().as_bytes());
        }
        Operation::UnloadDriver => driver::unload(arguments[0]),
        Operation::CreateProcess => to_result(ps::create(request.process)),
        Operation::ExitProcess => {
            file::close_all(request.process);
            // NT's process would wait for its requests first.
            if !request::is_outstanding(request.process) {
                crate::mm::locked::check_process(request.process);
            }
            io::dos_names::forget_process(request.process);
            crate::mm::section_view::forget_process(request.process);
            crate::mm::address_space::forget_process(request.process);
            crate::mm::secure::forget_process(request.process);
            client::forget_process(request.process);
            to_result(ps::remove(request.process))
        }
        Operation::Open => {
            client::opening(request);
            let refused = request::open(request).err();
            if refused.is_some() {
                client::opened(request.id, None);
            }
            return refused.map(Err);
        }
        Operation::Close => {
            client::closed(request);
            to_result(file::close_handle(request.process, arguments[0]))
        }
        Operation::BorrowHandle => client::borrow(request),
        Operation::AttachClient => client::attach(request),
        Operation::DetachClient => return client::detach(request),
        Operation::DeviceControl => return request::device_control(request).err().map(Err),
        Operation::Read => return request::read_or_write(request, false).err().map(Err),
        Operation::Write => return request::read_or_write(request, true).err().map(Err),
        Operation::Flush => return request::flush(request).err().map(Err),
        Operation::Cancel if io::dos_names::cancel(arguments[0]) => Ok(0),
        Operation::Cancel => request::cancel_by_id(arguments[0]).map(|()| 0),
        Operation::ListNames => return list_names(request),
        Operation::WatchNames => {
            return io::dos_names::wait(request.id, request.process, arguments[0]).map(Ok);
        }
        Operation::PortIn => port(request, None),
        Operation::PortOut => port(request, Some(low32(arguments[2]))),
        Operation::LoadRegistry => load_registry(arguments[0], arguments[1]),
        Operation::SaveRegistry => return write_out(request, &cm::encode()),
        Operation::Shutdown => {
            io::shutdown::notify();
            shared::post(&Completion {
                id: request.id,
                ..Completion::default()
            });
            let platform = shared::platform();
            platform.doorbell(Call::Shutdown, [0; 6]);
            platform.halt()
        }
    })
}

fn load_registry(address: u64, bytes: u64) -> Result<u64, NtStatus> {
    let contents = buffers::Buffers::alias(address, bytes)?.read_slice(to_usize(bytes));
    cm::load(&contents).map(|()| 0)
}

/// Writes what was asked for to client memory (arguments: address, bytes), or answers with its size alone.
fn write_out(request: &Request, contents: &[u8]) -> Option<Result<u64, NtStatus>> {
    let bytes = contents.len() as u64;
    if request.arguments[1] == 0 {
        return Some(Ok(bytes));
    }
    write_whole(request, contents, bytes)
}

fn list_names(request: &Request) -> Option<Result<u64, NtStatus>> {
    let version = io::dos_names::version();
    write_whole(request, &io::dos_names::utf16(), version)
}

/// Writes all of `contents` to client memory, and completes the request with `value`.
fn write_whole(request: &Request, contents: &[u8], value: u64) -> Option<Result<u64, NtStatus>> {
    let [address, available, ..] = request.arguments;
    let bytes = contents.len() as u64;
    if available < bytes {
        return Some(Err(NtStatus::BUFFER_TOO_SMALL));
    }
    match buffers::Buffers::alias(address, bytes) {
        Ok(target) => target.write_bytes(contents),
        Err(status) => return Some(Err(status)),
    }
    shared::post(&Completion {
        id: request.id,
        information: bytes,
        value,
        ..Completion::default()
    });
    None
}

fn port(request: &Request, write: Option<u32>) -> Result<u64, NtStatus> {
    let [port, width, ..] = request.arguments;
    if port > 0xFFFF || width > 4 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let access = PortAccess {
        port: low16(port),
        width: low8(width),
        write,
    };
    iopm::process_port(request.process, access).map(u64::from)
}

/// The VMM has interrupted the guest, for a tick or a device; it has said so in the shared pages before. True:
/// [`interrupt`] is to run now, on the interrupted thread's stack; shim code counts as entered. False: shim code was
/// interrupted, which looks for what is due on its way out.
#[must_use]
pub fn begin_interrupt() -> bool {
    if shared::depth() != 0 {
        return false;
    }
    shared::set_depth(1);
    true
}

/// An interrupt, in the interrupted code's stead. The depth of shim code is 1, and 0 when the interrupted code is resumed.
pub fn interrupt() {
    io::interrupt_lines::deliver();
    if shared::tick_due() != 0
        && shared::irql() < crate::nt::DISPATCH_LEVEL
        && shared::in_tick() == 0
    {
        tick();
    }
    ke::deliver_deferred();
}

/// The timer tick: time, expired timers, DPCs, and the end of a quantum.
fn tick() {
    shared::set_in_tick(1);
    shared::set_tick_due(0);
    time::update();
    timer::expire();
    ke::dpc::run_all();
    shared::set_in_tick(0);
    sched::on_tick();
}

/// Stops the guest because the shim itself failed.
pub fn shim_panic(text: core::fmt::Arguments<'_>) -> ! {
    let registers = Registers {
        rip: shared::caller(),
        ..Registers::default()
    };
    shared::crash(CrashKind::ShimPanic, 0, [0; 4], &registers, None, text)
}

/// Records something noteworthy that does not stop the guest.
pub fn finding(arguments: &[u64], text: &str) {
    shared::trace(TraceKind::Finding, 0, shared::caller(), arguments, text);
}
