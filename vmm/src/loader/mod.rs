//! PE images: parsing, validation, relocation, import binding.
