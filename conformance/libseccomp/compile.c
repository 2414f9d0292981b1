/*
 * Compiles seccomp profiles with libseccomp, for the unit test that compares kelson's programs with its:
 *
 *   cc -O2 -o /tmp/compile conformance/libseccomp/compile.c -lseccomp        (Debian: libseccomp-dev)
 *   KELSON_LIBSECCOMP=/tmp/compile cargo test --lib seccomp::tests::libseccomp -- --ignored --nocapture
 *
 * Requests on standard input, a line each:
 *
 *   n NAME ARCH                                   the number of a call, as text; below 0 where there is none
 *   p DEFAULT OPTIMIZE KEEP COUNT ARCH...         begins a profile; KEEP is 0 where the machine's own is not meant
 *   r ACTION NAME COUNT [INDEX OPERATOR A B]...   adds a rule
 *   e                                             ends it: the answer is a line "status length nanoseconds" and,
 *                                                 where the status is 0, a line of instructions in hexadecimal, and
 *                                                 the rules as libseccomp understood them, ended by a dot
 *
 * Some versions of libseccomp do not end on some profiles: after three seconds the status is 124, and the program ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static scmp_filter_ctx filter;
static int status;
static struct timespec began;

static void note(int result)
{
	/* That the machine's own architecture is there already is what was meant. */
	if (result < 0 && status == 0)
		status = -result;
}

static void number(void)
{
	char name[128];
	uint32_t arch;

	if (scanf("%127s %u", name, &arch) != 2)
		exit(1);
	printf("%d\n", seccomp_syscall_resolve_name_arch(arch, name));
}

static void begin(void)
{
	uint32_t action, arch;
	int optimize, keep, count;

	if (scanf("%u %d %d %d", &action, &optimize, &keep, &count) != 4)
		exit(1);
	alarm(3);
	clock_gettime(CLOCK_MONOTONIC, &began);
	status = 0;
	filter = seccomp_init(action);
	if (!filter)
		exit(1);
	seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (!keep)
		note(seccomp_arch_remove(filter, SCMP_ARCH_NATIVE));
	while (count--) {
		if (scanf("%u", &arch) != 1)
			exit(1);
		if (seccomp_arch_exist(filter, arch) != 0)
			note(seccomp_arch_add(filter, arch));
	}
	if (optimize)
		note(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, optimize));
}

static void rule(void)
{
	struct scmp_arg_cmp args[6];
	char name[128];
	uint32_t action;
	unsigned int count, i, operator;
	int call;

	if (scanf("%u %127s %u", &action, name, &count) != 3 || count > 6)
		exit(1);
	for (i = 0; i < count; i++) {
		if (scanf("%u %u %lu %lu", &args[i].arg, &operator, &args[i].datum_a, &args[i].datum_b) != 4)
			exit(1);
		args[i].op = operator;
	}
	call = seccomp_syscall_resolve_name(name);
	if (call != __NR_SCMP_ERROR)
		note(seccomp_rule_add_array(filter, action, call, count, args));
}

static void give_up(int signal)
{
	static const char answer[] = "124 0 0\n";

	(void)signal;
	_exit(write(1, answer, sizeof(answer) - 1) < 0);
}

static void end(void)
{
	static uint64_t program[1 << 16];
	struct timespec ended;
	ssize_t length = 0, i;
	int file = memfd_create("program", 0);

	note(seccomp_export_bpf(filter, file));
	clock_gettime(CLOCK_MONOTONIC, &ended);
	if (status == 0)
		length = pread(file, program, sizeof(program), 0) / 8;
	close(file);
	printf("%d %zd %ld\n", status, length,
	       (ended.tv_sec - began.tv_sec) * 1000000000L + ended.tv_nsec - began.tv_nsec);
	for (i = 0; i < length; i++)
		printf("%016lx", program[i]);
	if (length) {
		printf("\n");
		fflush(stdout);
		seccomp_export_pfc(filter, 1);
		printf(".\n");
	}
	seccomp_release(filter);
	alarm(0);
}

int main(void)
{
	char request;

	signal(SIGALRM, give_up);
	while (scanf(" %c", &request) == 1) {
		if (request == 'n')
			number();
		else if (request == 'p')
			begin();
		else if (request == 'r')
			rule();
		else if (request == 'e')
			end();
		fflush(stdout);
	}
	return 0;
}
