//! The `[clients]` table.

use super::common::comment;
use super::single_table;
use crate::policy::clients::Clients;
use crate::policy::fields::{Context, Fields};
use crate::policy::schema::CLIENTS;

/// Most users, and most groups.
pub(in crate::policy) const NAMES_MAX: usize = 64;
/// Most characters of a name (shadow's useradd, LOGIN_NAME_MAX without its NUL).
pub(in crate::policy) const NAME_MAX: usize = 255;

pub(super) fn parse(context: &mut Context<'_>, top: &Fields<'_>) -> Clients {
    let built_in = Clients::default();
    let Some(fields) = single_table(context, top, "clients", CLIENTS.title) else {
        return built_in;
    };
    fields.check_keys(context, &CLIENTS.names(), |_| None);
    comment(context, &fields);
    Clients {
        users: names(context, &fields, "users", "users"),
        groups: names(context, &fields, "groups", "groups"),
        socket_mode: mode(context, &fields).unwrap_or(built_in.socket_mode),
    }
}

/// A name, or a number of 32 bits (all ones is none).
fn is_name(text: &str) -> bool {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u32>().is_ok_and(|number| number != u32::MAX);
    }
    let has_no_name = |letter: char| letter.is_whitespace() || letter.is_control();
    text.len() <= NAME_MAX && !text.contains(has_no_name) && !text.contains([':', ',', '/'])
}

fn names(context: &mut Context<'_>, fields: &Fields<'_>, key: &str, what: &str) -> Vec<String> {
    let allowed = format!(
        "a list of at most {NAMES_MAX} {what}, each a name or a number in quotes, such as [\"alice\", \"1001\"]"
    );
    if fields.table.get(key).is_none() {
        return Vec::new();
    }
    let Some(list) = fields.list(context, key, &allowed) else {
        return Vec::new();
    };
    if list.len() > NAMES_MAX {
        let message = format!("`{key}` has {} names", list.len());
        context.error(&fields.span_of(key), message, allowed);
        return Vec::new();
    }
    let mut names = Vec::new();
    for element in list {
        match element.get_ref().as_str() {
            Some(text) if is_name(text) => names.push(text.to_owned()),
            _ => context.error(&element.span(), "this is no name", allowed.clone()),
        }
    }
    names
}

fn mode(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<u32> {
    let allowed = "permission bits as for chmod, in quotes: \"0600\", \"0660\", \"0666\"";
    let (text, span) = fields.string(context, "socket-mode", allowed)?;
    let mode = u32::from_str_radix(text, 8).ok();
    let mode = mode.filter(|mode| *mode <= 0o777 && matches!(text.len(), 3 | 4));
    if mode.is_none() {
        let message = format!("`socket-mode` cannot be \"{text}\"");
        context.error(&span, message, allowed);
    }
    mode
}
