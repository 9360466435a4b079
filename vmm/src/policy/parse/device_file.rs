//! The file that a `--device` argument names, by a path that is the same in any folder.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::device_option::{ALIASES, split};
use crate::policy::{DeviceSpec, Policy, PortBackend};

/// The argument with its file's path absolute, as it is from `folder` on. `None`: it is no argument, or that path cannot be
/// written in one.
pub(in crate::policy) fn anywhere(argument: &str, folder: &Path) -> Option<String> {
    let argument = argument.replace(['\n', '\r'], " ");
    let Some((key, path)) = file_of(&argument)?.filter(|(_, path)| path.is_relative()) else {
        return Some(argument);
    };
    let items = split(&argument, argument.find(':')? + 1..argument.len());
    let value = items.into_iter().find_map(|item| {
        let name = argument.get(item.key)?.trim();
        let is_its = name == key || ALIASES.contains(&(name, key));
        item.value.filter(|_| is_its)
    })?;
    let written = argument.get(value.clone())?;
    let plain = if written.starts_with('"') {
        let line = format!("v={written}");
        let table = DeTable::parse(&line).ok()?.into_inner();
        table.get("v")?.get_ref().as_str()?.to_owned()
    } else {
        written.to_owned()
    };
    // Something may be before it, such as csv:
    let before = plain.strip_suffix(path.to_str()?)?;
    let whole = folder.join(&path);
    let new = toml::Value::String(format!("{before}{}", whole.to_str()?)).to_string();
    let mut changed = argument;
    changed.replace_range(value, &new);
    let is_named = file_of(&changed)?.is_some_and(|(_, named)| named == whole);
    is_named.then_some(changed)
}

/// The file, and the key that names it; `None`: it is no argument.
fn file_of(argument: &str) -> Option<Option<(&'static str, PathBuf)>> {
    let arguments = [argument.to_owned()];
    let policy = Policy::deny_all().with_devices(&arguments).ok()?;
    let socket = policy
        .port_rules
        .iter()
        .find_map(|rule| match &rule.backend {
            PortBackend::Device(spec) => match &**spec {
                DeviceSpec::External(spec) => Some(("socket", spec.socket.clone()?)),
                _ => None,
            },
            _ => None,
        });
    let files = policy.rule_files();
    let file = files.first().map(|file| (file.key, file.path.to_owned()));
    Some(file.or(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_become_absolute() {
        let folder = Path::new("/a b,c");
        let anywhere = |argument: &str| anywhere(argument, folder);
        for (argument, wanted) in [
            (
                "lpt:base=0x278,out=x.bin,ecp",
                r#"lpt:base=0x278,out="/a b,c/x.bin",ecp"#,
            ),
            (r#"lpt:output="x,y.bin""#, r#"lpt:output="/a b,c/x,y.bin""#),
            ("rtc:nvram=d/cmos", r#"rtc:nvram="/a b,c/d/cmos""#),
            ("adc12:wave=csv:w.csv", r#"adc12:wave="csv:/a b,c/w.csv""#),
            ("external:socket=s", r#"external:socket="/a b,c/s""#),
        ] {
            assert_eq!(anywhere(argument).as_deref(), Some(wanted));
        }
        for argument in [
            "lpt:out=/x.bin",
            "lpt:out=-",
            "uart16550:out=pty",
            "uart16550:out=tcp:7000",
            "adc12:wave=sine",
            "pit",
            r#"lpt:command=["lp","x.bin"]"#,
        ] {
            assert_eq!(anywhere(argument).as_deref(), Some(argument));
        }
        assert_eq!(
            anywhere("lpt:out=x\nbin").as_deref(),
            Some(r#"lpt:out="/a b,c/x bin""#)
        );
        assert_eq!(anywhere("lp:out=x"), None);
        // A quotation mark cannot be written in a value.
        assert_eq!(super::anywhere("lpt:out=x", Path::new("/a\"b")), None);
    }
}
