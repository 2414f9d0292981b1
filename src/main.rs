//! The program: everything is in the library.

#[global_allocator]
static ALLOCATOR: kelson::sys::alloc::Bump = kelson::sys::alloc::Bump::new();

fn main() {
    std::process::exit(kelson::cli::main(std::env::args_os()));
}

/// No panic is told with a backtrace (`log::catch_panics`): here the stack ends before its first frame. The C library's
/// own function would bring along all that finds the names of frames, a tenth of the program.
// SAFETY: takes what unwind.h's takes, of which it looks at nothing, and calls nothing back.
#[cfg(target_env = "musl")]
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_: *const (), _: *mut ()) -> i32 {
    const END_OF_STACK: i32 = 5;
    END_OF_STACK
}
