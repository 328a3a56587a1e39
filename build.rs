//! Says which tests can run: those that need a tool are reported as ignored where nobody names one.
//!
//! The code that is generated from `proto/` is checked in; `tools/codegen` writes it.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for (variable, flag) in [
        ("CONSENT_LEDGER_TEST_PYTHON", "test_python"),
        ("CONSENT_LEDGER_TEST_GO", "test_go"),
        ("CONSENT_LEDGER_TEST_TSX", "test_tsx"),
    ] {
        println!("cargo::rustc-check-cfg=cfg({flag})");
        println!("cargo::rerun-if-env-changed={variable}");
        if env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg={flag}");
        }
    }
}
