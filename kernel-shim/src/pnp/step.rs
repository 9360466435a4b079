//! The steps of plug and play that a user can have done.

use super::{
    Node, State, add, devices, failed, finish_remove, irp, mark, node_of, notify, open_files,
    query_remove, remove, set_state, start, surprise_remove,
};
use crate::nt::{DOE_REMOVE_PENDING, NtStatus, pnp_minor};

/// What a user can have done to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Step {
    /// AddDevice if no driver is on it, and IRP_MN_START_DEVICE.
    Start = 0,
    /// QUERY_STOP if that was not done, and STOP.
    Stop = 1,
    /// IRP_MN_QUERY_STOP_DEVICE.
    QueryStop = 2,
    /// IRP_MN_CANCEL_STOP_DEVICE.
    CancelStop = 3,
    /// IRP_MN_QUERY_REMOVE_DEVICE.
    QueryRemove = 4,
    /// IRP_MN_CANCEL_REMOVE_DEVICE.
    CancelRemove = 5,
    /// QUERY_REMOVE if that was not done, and REMOVE.
    Remove = 6,
    /// IRP_MN_SURPRISE_REMOVAL, and IRP_MN_REMOVE_DEVICE when no file is open.
    SurpriseRemove = 7,
}

impl Step {
    /// From its number.
    #[must_use]
    pub(crate) const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Start,
            1 => Self::Stop,
            2 => Self::QueryStop,
            3 => Self::CancelStop,
            4 => Self::QueryRemove,
            5 => Self::CancelRemove,
            6 => Self::Remove,
            7 => Self::SurpriseRemove,
            _ => return None,
        })
    }
}

fn query_stop(node: &Node) -> Result<(), NtStatus> {
    let (status, _) = irp::send_pnp(node.pdo, pnp_minor::QUERY_STOP_DEVICE, [0; 4]);
    if !status.is_success() {
        let _ = irp::send_pnp(node.pdo, pnp_minor::CANCEL_STOP_DEVICE, [0; 4]);
        return Err(status);
    }
    set_state(node.pdo, State::StopPending);
    Ok(())
}

/// Does a step of the user's.
///
/// # Errors
/// INVALID_DEVICE_STATE: the device is not in a state for it; otherwise what the drivers answered.
pub(crate) fn perform(node: &Node, step: Step) -> Result<(), NtStatus> {
    let pdo = node.pdo;
    match (step, node.state) {
        (Step::Start, State::Bare) => {
            add(node)?;
            let node = node_of(pdo)?;
            start(&node).inspect_err(|_| {
                if node_of(pdo).is_ok_and(|node| node.state == State::Added) {
                    finish_remove(&node);
                }
            })
        }
        (Step::Start, State::Added | State::Stopped) => start(node),
        (Step::Stop | Step::QueryStop, State::Started) => {
            query_stop(node)?;
            if step == Step::Stop {
                perform(&node_of(pdo)?, Step::Stop)?;
            }
            Ok(())
        }
        (Step::Stop, State::StopPending) => {
            let (status, _) = irp::send_pnp(pdo, pnp_minor::STOP_DEVICE, [0; 4]);
            set_state(pdo, State::Stopped);
            failed(status)
        }
        (Step::CancelStop, State::StopPending) => {
            let (status, _) = irp::send_pnp(pdo, pnp_minor::CANCEL_STOP_DEVICE, [0; 4]);
            set_state(pdo, State::Started);
            failed(status)
        }
        (Step::QueryRemove, _) => query_remove(node),
        (Step::CancelRemove, State::RemovePending(is_started)) => {
            let (status, _) = irp::send_pnp(pdo, pnp_minor::CANCEL_REMOVE_DEVICE, [0; 4]);
            mark(pdo, DOE_REMOVE_PENDING, false);
            notify::target_event(node, notify::Target::RemoveCancelled);
            let state = if is_started {
                State::Started
            } else {
                State::Added
            };
            set_state(pdo, state);
            failed(status)
        }
        (Step::Remove, State::Bare) => Err(NtStatus::INVALID_DEVICE_STATE),
        (Step::Remove, _) => remove(node),
        (Step::SurpriseRemove, State::Bare | State::Gone) => Err(NtStatus::INVALID_DEVICE_STATE),
        (Step::SurpriseRemove, _) => {
            surprise_remove(node);
            if open_files(pdo) == 0 {
                finish_remove(node);
            }
            Ok(())
        }
        _ => Err(NtStatus::INVALID_DEVICE_STATE),
    }
}

/// Does a step for the device with that number, or, with number 0, for the first one.
///
/// # Errors
/// NO_SUCH_DEVICE: there is none. INVALID_PARAMETER: no such step. Otherwise as the step.
pub(crate) fn perform_by_number(number: u64, step: u64) -> Result<u64, NtStatus> {
    let step = Step::from_number(step).ok_or(NtStatus::INVALID_PARAMETER)?;
    let node = node_by_number(number).ok_or(NtStatus::NO_SUCH_DEVICE)?;
    perform(&node, step).map(|()| 0)
}

/// The device with that number; with number 0, the first one.
pub(crate) fn node_by_number(number: u64) -> Option<Node> {
    devices()
        .into_iter()
        .find(|node| number == 0 || u64::from(node.number) == number)
}
