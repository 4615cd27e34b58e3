//! Guest physical memory layout, kernel loaders, ACPI and MP tables.
