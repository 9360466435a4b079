//! What `ringfence inspect` says about an image.
//!
//! The report is data ([`serde::Serialize`] for `--json`) and prints itself for people ([`fmt::Display`]). What is
//! implemented is the export table's knowledge, so the caller brings it as a function.

use core::fmt;

use serde::Serialize;

use crate::{Checksum, Image, SecurityCookie};

/// How much of an imported function there is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "status", content = "what", rename_all = "snake_case")]
pub enum ImportStatus {
    /// All that a driver can observe.
    Implemented,
    /// Some; the text says what is missing.
    Partial(String),
    /// Known, with its signature, but a call stops the guest with a report.
    Missing,
    /// Nothing is known by that name or ordinal; a call stops the guest with a report.
    Unknown,
}

impl ImportStatus {
    /// The word that people see.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Implemented => "implemented",
            Self::Partial(_) => "partial",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// One import.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ImportReport {
    /// DLL, spelt as in the image.
    pub dll: String,
    /// Name, unless imported by ordinal.
    pub name: Option<String>,
    /// Ordinal, unless imported by name.
    pub ordinal: Option<u16>,
    /// Status.
    #[serde(flatten)]
    pub status: ImportStatus,
}

impl ImportReport {
    /// The name or `#ORDINAL`.
    fn label(&self) -> String {
        match (&self.name, self.ordinal) {
            (Some(name), _) => name.clone(),
            (None, ordinal) => format!("#{}", ordinal.unwrap_or_default()),
        }
    }
}

/// One section.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SectionReport {
    /// Name.
    pub name: String,
    /// Address relative to the image's base.
    pub rva: u32,
    /// Bytes in memory.
    pub bytes: u32,
    /// Protection that its flags ask for, as `r-x`.
    pub asked: &'static str,
    /// Protection that its pages get. More than was asked for only where it shares pages with other sections.
    pub mapped: &'static str,
    /// Whether Windows frees it once DriverEntry has returned.
    pub discardable: bool,
}

/// Everything that `ringfence inspect` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InspectReport {
    /// `i386` or `amd64`.
    pub machine: &'static str,
    /// `driver` or `export driver`.
    pub kind: &'static str,
    /// SizeOfImage, in bytes.
    pub image_bytes: u32,
    /// ImageBase.
    pub preferred_base: u64,
    /// RVA of the entry point.
    pub entry_rva: u32,
    /// TimeDateStamp.
    pub time_stamp: u32,
    /// Checksum.
    pub checksum: Checksum,
    /// SectionAlignment, in bytes.
    pub section_alignment: u32,
    /// Whether sections share pages ([`Image::is_single_mapping`]).
    pub is_single_mapping: bool,
    /// Whether the image can be moved.
    pub is_relocatable: bool,
    /// How many relocations there are.
    pub relocations: usize,
    /// Security cookie.
    pub security_cookie: Option<SecurityCookie>,
    /// Sections.
    pub sections: Vec<SectionReport>,
    /// How many functions the image exports.
    pub exports: usize,
    /// Imports.
    pub imports: Vec<ImportReport>,
}

impl InspectReport {
    /// Describes `image`. `status` is asked for each import: its DLL, and its name or ordinal.
    #[must_use]
    pub fn new(
        image: &Image,
        status: impl Fn(&str, Option<&str>, Option<u16>) -> ImportStatus,
    ) -> Self {
        let pages = image.protection();
        let sections = image.sections.iter().map(|section| SectionReport {
            name: section.name.clone(),
            rva: section.rva,
            bytes: section.virtual_bytes,
            asked: section.asked_protection().name(),
            mapped: Image::mapped_protection(&pages, section).name(),
            discardable: section.is_discardable(),
        });
        let imports = image.imports.iter().map(|import| ImportReport {
            dll: import.dll.clone(),
            name: import.name().map(str::to_owned),
            ordinal: import.ordinal(),
            status: status(&import.dll, import.name(), import.ordinal()),
        });
        Self {
            machine: image.abi.name(),
            kind: if image.is_export_driver {
                "export driver"
            } else {
                "driver"
            },
            image_bytes: image.size_of_image,
            preferred_base: image.preferred_base,
            entry_rva: image.entry_rva,
            time_stamp: image.time_stamp,
            checksum: image.checksum,
            section_alignment: image.section_alignment,
            is_single_mapping: image.is_single_mapping(),
            is_relocatable: !image.relocations_stripped,
            relocations: image.relocations.len(),
            security_cookie: image.security_cookie,
            sections: sections.collect(),
            exports: image.exports.len(),
            imports: imports.collect(),
        }
    }

    /// One line: how many imports there are of each status, with the names of those that stop the guest.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |name: &str| {
            let with_name = self.imports.iter().filter(|i| i.status.name() == name);
            with_name.count()
        };
        let mut parts = Vec::new();
        for name in ["implemented", "partial"] {
            if count(name) != 0 {
                parts.push(format!("{} {name}", count(name)));
            }
        }
        for status in [ImportStatus::Missing, ImportStatus::Unknown] {
            let labels: Vec<_> = self
                .imports
                .iter()
                .filter(|import| import.status == status)
                .map(ImportReport::label)
                .collect();
            if !labels.is_empty() {
                let name = status.name();
                parts.push(format!("{} {name}: {}", labels.len(), labels.join(" ")));
            }
        }
        match self.imports.len() {
            0 => "no imports".to_owned(),
            1 => format!("1 import: {}", parts.join(", ")),
            all => format!("{all} imports: {}", parts.join(", ")),
        }
    }

    fn alignment_note(&self) -> &'static str {
        if !self.is_single_mapping {
            "each section has its own pages"
        } else if self.sections.iter().any(|section| section.mapped == "rwx") {
            "sections share pages, so code can be written where data is on the same page"
        } else {
            "sections share pages"
        }
    }
}

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            kind,
            image_bytes,
            preferred_base,
            entry_rva,
            ..
        } = self;
        writeln!(
            f,
            "{machine} {kind}, {image_bytes} bytes for {preferred_base:#x}, entry +{entry_rva:#x}, built {}",
            Date(self.time_stamp)
        )?;
        let Checksum { stored, computed } = self.checksum;
        match (stored, self.checksum.is_correct()) {
            (0, false) => write!(f, "checksum not set")?,
            (_, true) => write!(f, "checksum {stored:#x} correct")?,
            (_, false) => write!(f, "checksum {stored:#x} wrong (the file has {computed:#x})")?,
        }
        if self.is_relocatable {
            write!(f, ", {} relocations", self.relocations)?;
        } else {
            write!(f, ", cannot be relocated")?;
        }
        match self.security_cookie {
            Some(SecurityCookie { rva, .. }) => writeln!(f, ", security cookie +{rva:#x}")?,
            None => writeln!(f, ", no security cookie")?,
        }
        writeln!(
            f,
            "alignment {:#x}: {}",
            self.section_alignment,
            self.alignment_note()
        )?;
        self.write_sections(f)?;
        self.write_imports(f)?;
        if self.exports != 0 {
            writeln!(f, "{} exports", self.exports)?;
        }
        writeln!(f, "{}", self.summary())
    }
}

impl InspectReport {
    fn write_sections(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  section        rva     bytes  asks  gets")?;
        for section in &self.sections {
            let SectionReport {
                name,
                rva,
                bytes,
                asked,
                mapped,
                discardable,
            } = section;
            let note = if *discardable { "  init only" } else { "" };
            writeln!(
                f,
                "  {name:8} {rva:>#9x} {bytes:>9}   {asked}   {mapped}{note}"
            )?;
        }
        Ok(())
    }

    fn write_imports(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.imports.iter().map(ImportReport::label);
        let width = labels.map(|label| label.len()).max().unwrap_or(0).min(48);
        let mut dll = None;
        for import in &self.imports {
            if dll != Some(&import.dll) {
                dll = Some(&import.dll);
                writeln!(f, "\n  imports from {}", import.dll)?;
            }
            let status = import.status.name();
            write!(f, "    {:width$}  {status}", import.label())?;
            match &import.status {
                ImportStatus::Partial(what) => writeln!(f, ": {what}")?,
                _ => writeln!(f)?,
            }
        }
        writeln!(f)
    }
}

/// The day of a TimeDateStamp, in UTC.
struct Date(u32);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("at an unknown time");
        }
        // Counts in years that begin on 1 March, so that the leap day is the last one of its year.
        let days = u64::from(self.0 / 86_400).saturating_add(719_468);
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let leap_days = (day_of_era / 1_460)
            .saturating_add(day_of_era / 146_096)
            .saturating_sub(day_of_era / 36_524);
        let year_of_era = day_of_era.saturating_sub(leap_days) / 365;
        let first_day = year_of_era
            .saturating_mul(365)
            .saturating_add(year_of_era / 4)
            .saturating_sub(year_of_era / 100);
        let day_of_year = day_of_era.saturating_sub(first_day);
        let month_from_march = day_of_year.saturating_mul(5).saturating_add(2) / 153;
        let month_start = month_from_march.saturating_mul(153).saturating_add(2) / 5;
        let day = day_of_year.saturating_sub(month_start).saturating_add(1);
        let (month, next_year) = if month_from_march < 10 {
            (month_from_march.saturating_add(3), 0)
        } else {
            (month_from_march.saturating_sub(9), 1)
        };
        let year = era
            .saturating_mul(400)
            .saturating_add(year_of_era)
            .saturating_add(next_year);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}
