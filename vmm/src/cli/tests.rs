use super::doctor::{Facts, render};
use super::*;
use clap::CommandFactory;

#[test]
fn arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn doctor_says_what_to_do() {
    let facts = Facts {
        kvm: Some(Ok("kvm_pvm")),
        ring0_works: false,
        automatic: Some(("ring3", "kvm_pvm interprets ring-0 code")),
        has_ioperm: true,
        dev_port: None,
        wine: Some("/usr/bin/wine".into()),
    };
    assert_eq!(
        render(&facts.checks()),
        "\
ok       /dev/kvm          kvm_pvm, API version 12
warn     ring0             a probe could not execute SSE at ring 0
                           drivers run at ring 3 here, which Ringfence does by itself
ok       --privilege auto  ring3: kvm_pvm interprets ring-0 code
ok       ioperm            allowed
warn     /dev/port         does not exist
                           only device models can answer ports here
ok       wine              /usr/bin/wine"
    );
}
