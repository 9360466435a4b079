//! A machine that runs: its commands, then its clients or a signal.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::failure::lost;
use crate::cli::output::Output;
use crate::session::command::Command;
use crate::session::driver::RunningMachine;
use crate::session::exit_code::ExitCode;
use crate::session::interpreter::Interpreter;
use crate::session::interrupt::Interrupt;
use crate::session::server::Server;

/// Runs the commands, calls `ready`, then serves or waits; see [`super::Arguments`].
pub(super) fn drive(
    machine: &Arc<dyn RunningMachine>,
    commands: Option<&[Command]>,
    server: Option<&Server>,
    interrupt: Interrupt,
    output: &mut Output,
    ready: impl FnOnce(),
) -> ExitCode {
    let stop = match EventFd::new(libc::EFD_CLOEXEC)
        .and_then(|stop| Ok((stop.try_clone()?, stop.try_clone()?, stop)))
    {
        Ok((for_machine, for_signal, stop)) => {
            machine.notify_stop(for_machine);
            let machine = Arc::clone(machine);
            let watcher = std::thread::Builder::new()
                .name("signals".into())
                .spawn(move || {
                    interrupt.wait();
                    let signal = interrupt.signal().unwrap_or("a signal");
                    tracing::info!("the run ends: {signal} has come");
                    crate::launch::stopping();
                    // What waits for the guest returns now.
                    machine.shutdown();
                    let _ = for_signal.write(1);
                });
            if let Err(error) = watcher {
                return output.error(
                    ExitCode::CommandFailed,
                    &format!("cannot start a thread: {error}"),
                );
            }
            stop
        }
        Err(error) => {
            return output.error(
                ExitCode::CommandFailed,
                &format!("cannot make an event: {error}"),
            );
        }
    };
    if let Some(commands) = commands {
        let code = run_commands(&**machine, commands, output);
        if code != ExitCode::Success || server.is_none() {
            return code;
        }
    }
    ready();
    let waited = match server {
        Some(server) => server.serve(machine, &stop),
        None => stop.read().map(|_| ()),
    };
    if let Err(error) = waited {
        return output.error(ExitCode::CommandFailed, &format!("cannot wait: {error}"));
    }
    match machine.stopped() {
        // Asked for by a signal.
        _ if interrupt.is_set() => ExitCode::Success,
        Some(error) => lost("run", &error, output),
        None => {
            tracing::info!("the run ends: the driver is unloaded");
            ExitCode::Success
        }
    }
}

fn run_commands(
    machine: &dyn RunningMachine,
    commands: &[Command],
    output: &mut Output,
) -> ExitCode {
    let driver = match machine.connect() {
        Ok(driver) => driver,
        Err(error) => return lost("connect", &error, output),
    };
    let mut interpreter = Interpreter::new(driver);
    for command in commands {
        let outcome = interpreter.execute(command);
        let is_closed = output.outcome(&outcome).is_err();
        if is_closed && outcome.is_success() {
            return ExitCode::CommandFailed;
        }
        if !outcome.is_success() {
            return outcome.exit;
        }
    }
    // A driver may crash after it has answered.
    match machine.stopped() {
        Some(error) => lost("run", &error, output),
        None => ExitCode::Success,
    }
}
