//! How the program is linked, and the program alone: tests unwind their stacks.

fn main() {
    println!("cargo:rerun-if-changed=link");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    if is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "musl") {
        // Of `_Unwind_Backtrace` the program's own counts, which comes first (main.rs).
        println!("cargo:rustc-link-arg-bins=-Wl,-z,muldefs");
        for script in ["start.ld", "unwind.ld"] {
            println!("cargo:rustc-link-arg-bins=-Wl,-T,{}/link/{script}", env!("CARGO_MANIFEST_DIR"));
        }
    }
}
