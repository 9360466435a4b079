//! The export table against Microsoft's own description of the kernel's functions (Windows.Wdk.winmd): number of
//! parameters, the width of each on i386 and amd64, the result's, and whether variable arguments follow.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use abi::DriverAbi;
use kernel_shim::export::{Export, ExportKind};
use windows_metadata::reader::{File, Index, TypeCategory};
use windows_metadata::{FieldAttributes, MethodCallAttributes, Signature, Type, TypeAttributes};

/// Declarations that differ from the metadata and are right all the same, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Fewer functions compared than this: the metadata was not read as it should be.
const FEWEST: usize = 60;

/// The DLLs whose functions are compared; ntdll.dll has the Rtl and Zw functions that the kernel has too.
const DLLS: [&str; 3] = ["ntoskrnl.exe", "hal.dll", "ntdll.dll"];

/// Widths in bytes: (i386, amd64).
type Width = (usize, usize);
/// A structure with parts that cannot be looked up; larger than any that is passed by value.
const UNKNOWN: Width = (1 << 20, 1 << 20);
const POINTER: Width = (4, 8);

/// Where the metadata is: the package windows-bindgen ships it, and cargo knows where that is.
fn metadata_folder() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        // What other systems would need need not be there.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "windows-bindgen")
        .and_then(|package| package["manifest_path"].as_str())
        .expect("windows-bindgen is a dependency of this package");
    PathBuf::from(manifest).with_file_name("default")
}

fn read_index() -> Index {
    let folder = metadata_folder();
    let files = ["Windows.Wdk.winmd", "Windows.Win32.winmd"].map(|name| {
        let path = folder.join(name);
        File::read(&path).unwrap_or_else(|| panic!("{} is no metadata file", path.display()))
    });
    Index::new(files.into())
}

/// Width of a type. Structures by value are no wider than their members one after the other: the few that functions
/// take (handles, NTSTATUS, BOOLEAN, strings) have one member.
fn width(index: &Index, ty: &Type) -> Width {
    match ty {
        Type::Void => (0, 0),
        Type::Bool | Type::I8 | Type::U8 => (1, 1),
        Type::Char | Type::I16 | Type::U16 => (2, 2),
        Type::I32 | Type::U32 | Type::F32 => (4, 4),
        Type::I64 | Type::U64 | Type::F64 => (8, 8),
        // A nested type without a name, which the index cannot find.
        Type::Name(name) if name.namespace.is_empty() => UNKNOWN,
        Type::Name(name) => {
            let definition = index
                .get(&name.namespace, &name.name)
                .next()
                .unwrap_or_else(|| {
                    panic!("{}.{} is not in the metadata", name.namespace, name.name)
                });
            match definition.category() {
                TypeCategory::Enum | TypeCategory::Struct => {
                    let is_union = definition.flags().contains(TypeAttributes::ExplicitLayout);
                    definition
                        .fields()
                        .filter(|field| !field.flags().contains(FieldAttributes::Literal))
                        .map(|field| match field.ty() {
                            // A union's parts without a name are as wide as those that have one (LARGE_INTEGER).
                            Type::Name(name) if is_union && name.namespace.is_empty() => (0, 0),
                            ty => width(index, &ty),
                        })
                        .fold((0, 0), |(a, b), (c, d)| {
                            if is_union {
                                (a.max(c), b.max(d))
                            } else {
                                (a + c, b + d)
                            }
                        })
                }
                _ => POINTER,
            }
        }
        // Pointers, references, arrays, ISize, USize.
        _ => POINTER,
    }
}

/// The functions that the metadata has for our DLLs: usually one signature, sometimes one for each machine.
fn functions(index: &Index) -> BTreeMap<String, Vec<Signature>> {
    let mut functions: BTreeMap<String, Vec<Signature>> = BTreeMap::new();
    for class in index.all().filter(|class| class.name() == "Apis") {
        for method in class.methods() {
            let Some(import) = method.impl_map() else {
                continue;
            };
            let dll = import.import_scope().name().to_ascii_lowercase();
            if DLLS.contains(&dll.as_str()) {
                functions
                    .entry(method.name().to_owned())
                    .or_default()
                    .push(method.signature(&[]));
            }
        }
    }
    functions
}

fn declared_width(kind: kernel_shim::export::ValueKind) -> Width {
    (kind.bytes(DriverAbi::I386), kind.bytes(DriverAbi::Amd64))
}

/// How a declaration differs from a signature.
fn differences(index: &Index, export: &Export, signature: &Signature) -> Vec<String> {
    let ExportKind::Function {
        parameters,
        result,
        is_variadic,
        ..
    } = export.kind
    else {
        return vec!["declared as data".into()];
    };
    let mut found = Vec::new();
    if parameters.len() != signature.types.len() {
        found.push(format!(
            "{} parameters, not {}",
            signature.types.len(),
            parameters.len()
        ));
    }
    for (parameter, ty) in parameters.iter().zip(&signature.types) {
        let (expected, declared) = (width(index, ty), declared_width(parameter.kind));
        if expected < UNKNOWN && expected != declared {
            found.push(format!(
                "{}: {expected:?} bytes ({ty:?}), not {declared:?}",
                parameter.name
            ));
        }
    }
    let (expected, declared) = (width(index, &signature.return_type), declared_width(result));
    if expected < UNKNOWN && expected != declared {
        found.push(format!(
            "result: {expected:?} bytes ({:?}), not {declared:?}",
            signature.return_type
        ));
    }
    if signature.flags.contains(MethodCallAttributes::VARARG) != is_variadic {
        found.push(format!(
            "variable arguments: {}, not {is_variadic}",
            !is_variadic
        ));
    }
    found
}

/// How a declaration differs from the signature that it differs least from.
fn least_differences(index: &Index, export: &Export, signatures: &[Signature]) -> Vec<String> {
    signatures
        .iter()
        .map(|signature| differences(index, export, signature))
        .min_by_key(Vec::len)
        .unwrap_or_default()
}

#[test]
fn declarations_agree_with_microsofts_metadata() {
    let index = read_index();
    let functions = functions(&index);
    let mut compared = 0;
    let mut wrong = Vec::new();
    for export in &kernel_shim::table::EXPORTS {
        let Some(signatures) = functions.get(export.name) else {
            continue;
        };
        compared += 1;
        let found = least_differences(&index, export, signatures);
        let is_exception = EXCEPTIONS.iter().any(|(name, _)| *name == export.name);
        match (found.is_empty(), is_exception) {
            (false, false) => wrong.push(format!("{}: {}", export.name, found.join("; "))),
            (true, true) => wrong.push(format!("{}: agrees, and needs no exception", export.name)),
            _ => {}
        }
    }
    println!(
        "{compared} of {} declarations are in the metadata",
        kernel_shim::table::COUNT
    );
    assert!(
        wrong.is_empty(),
        "the metadata says otherwise:\n{}",
        wrong.join("\n")
    );
    assert!(
        compared >= FEWEST,
        "only {compared} functions were compared, not {FEWEST}"
    );
}

#[test]
fn a_wrong_declaration_is_noticed() {
    let index = read_index();
    let functions = functions(&index);
    let table = &kernel_shim::table::EXPORTS;
    let find = |name: &str| {
        *table
            .iter()
            .find(|export| export.name == name)
            .expect("it is declared")
    };
    let signatures = &functions["MmMapIoSpace"];
    assert!(least_differences(&index, &find("MmMapIoSpace"), signatures).is_empty());
    // One parameter too few; an 8-byte number where a pointer-sized one belongs; a result that is not there.
    for other in ["MmUnmapIoSpace", "RtlFillMemory", "MmIsAddressValid"] {
        assert!(
            !least_differences(&index, &find(other), signatures).is_empty(),
            "{other}"
        );
    }
}
