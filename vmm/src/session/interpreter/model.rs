//! The command for device models.

use super::{Done, fields, status_fields};
use crate::devices::{InputError, RunningModel};
use crate::observe::escape::escape;
use crate::observe::ntstatus::NtStatus;
use crate::session::driver::{DriverError, RunningDriver};
use serde_json::json;

/// `device`, `device NAME`, `device NAME KEY=VALUE...`. Of several settings those before a wrong one are made.
pub(super) fn execute(
    driver: &mut dyn RunningDriver,
    name: Option<&str>,
    settings: &[(String, String)],
) -> Result<Done, DriverError> {
    let models = driver.models()?;
    let Some(name) = name else {
        let count = match models.len() {
            1 => "1 device model".to_owned(),
            count => format!("{count} device models"),
        };
        return Ok(shown(count, &models));
    };
    let mut found = models.iter().filter(|model| model.is_called(name));
    let model = match (found.next(), found.next()) {
        (Some(model), None) => model,
        (one, _) => {
            let what = if one.is_some() {
                "several device models are"
            } else {
                "no device model is"
            };
            let there: Vec<String> = models.iter().map(title).collect();
            let there = if there.is_empty() {
                "nothing: the policy has none".to_owned()
            } else {
                there.join(", ")
            };
            return Ok(refused(
                NtStatus::NO_SUCH_DEVICE,
                &format!("{what} called {}; there is {there}", escape(name)),
            ));
        }
    };
    for (key, value) in settings {
        let set = match &model.inputs {
            Some(inputs) => inputs.set(key, value),
            None => Err(InputError::Unknown),
        };
        if let Err(error) = set {
            return Ok(refused(
                NtStatus::INVALID_PARAMETER,
                &explained(model, key, value, &error),
            ));
        }
    }
    if settings.is_empty() {
        return Ok(shown(String::new(), std::slice::from_ref(model)));
    }
    Ok(super::succeeded())
}

/// What is wrong with a setting, and what can be set.
fn explained(model: &RunningModel, key: &str, value: &str, error: &InputError) -> String {
    let setting = format!("{}={}", escape(key), escape(value));
    match error {
        InputError::Value(allowed) => format!("{setting}: {} is {allowed}", escape(key)),
        InputError::Unknown => {
            let keys: Vec<String> = model
                .inputs
                .iter()
                .flat_map(|inputs| inputs.list())
                .map(|input| input.key)
                .collect();
            if keys.is_empty() {
                format!("{setting}: nothing of {} can be set", title(model))
            } else {
                format!("{setting}: {} has {}", title(model), keys.join(", "))
            }
        }
    }
}

fn title(model: &RunningModel) -> String {
    match &model.name {
        Some(name) => format!("{} ({})", escape(name), model.place),
        None => model.place.clone(),
    }
}

fn shown(mut text: String, models: &[RunningModel]) -> Done {
    let mut rows = Vec::new();
    for model in models {
        let inputs = model.inputs.as_ref().map(|inputs| inputs.list());
        let inputs = inputs.unwrap_or_default();
        text.push_str(&format!(
            "\n  {}: {}",
            title(model),
            escape(&model.description)
        ));
        for input in &inputs {
            text.push_str(&format!(
                "\n    {}={}  ({})",
                input.key,
                escape(&input.value),
                input.allowed
            ));
        }
        rows.push(json!({
            "name": model.name, "place": model.place, "model": model.description, "inputs": inputs,
        }));
    }
    Done {
        status: NtStatus::SUCCESS,
        text,
        fields: fields(json!({"models": rows})),
    }
}

fn refused(status: NtStatus, text: &str) -> Done {
    let mut more = status_fields(status);
    more.insert("error".into(), text.into());
    Done {
        status,
        text: format!("{status}: {text}"),
        fields: more,
    }
}
