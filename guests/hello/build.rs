//! Shrinks the guest's stack from the linker's 1 MiB: the stack lies below the
//! statics, so a small one keeps all that a request touches on a few pages.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-zstack-size=16384");
}
