//! The program: everything is in the library.

#[global_allocator]
static ALLOCATOR: kelson::sys::alloc::Bump = kelson::sys::alloc::Bump::new();

fn main() {
    std::process::exit(kelson::cli::main(std::env::args_os()));
}
