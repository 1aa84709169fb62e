//! Builds again when a migration changes: they are built in.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
