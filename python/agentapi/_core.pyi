"""Type stub of the Rust extension; stubtest keeps it equal to the binary."""
