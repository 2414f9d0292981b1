/*
 * Compiles seccomp profiles with libseccomp, for the unit tests that compare kelson's programs with its:
 * conformance/seccomp-figures builds it and runs them. By hand:
 *
 *   cc -O2 -o /tmp/compile conformance/libseccomp/compile.c -lseccomp        (Debian: libseccomp-dev)
 *   KELSON_LIBSECCOMP=/tmp/compile cargo test --lib seccomp::tests::beside -- --nocapture
 *
 * Requests on standard input, a line each:
 *
 *   v                                             the version of libseccomp, as text
 *   n NAME ARCH                                   the number of a call, as text; below 0 where there is none
 *   p DEFAULT OPTIMIZE KEEP COUNT ARCH...         begins a profile; KEEP is 0 where the machine's own is not meant
 *   r ACTION NAME COUNT [INDEX OPERATOR A B]...   adds a rule
 *   e                                             compiles it: the answer is a line "status length nanoseconds" and,
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

#define MOST_ARCHES 8
#define MOST_RULES 8192

struct rule {
	uint32_t action;
	unsigned int count;
	char name[64];
	struct scmp_arg_cmp args[6];
};

static struct rule rules[MOST_RULES];
static unsigned int rule_count;
static uint32_t default_action, arches[MOST_ARCHES];
static int optimize, keep, arch_count;
static scmp_filter_ctx filter;
static int status;

static void note(int result)
{
	/* That the machine's own architecture is there already is what was meant. */
	if (result < 0 && status == 0)
		status = -result;
}

static void version(void)
{
	const struct scmp_version *version = seccomp_version();

	printf("%u.%u.%u\n", version->major, version->minor, version->micro);
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
	int i;

	if (scanf("%u %d %d %d", &default_action, &optimize, &keep, &arch_count) != 4 || arch_count > MOST_ARCHES)
		exit(1);
	for (i = 0; i < arch_count; i++)
		if (scanf("%u", &arches[i]) != 1)
			exit(1);
	rule_count = 0;
}

static void rule(void)
{
	struct rule *rule = &rules[rule_count++];
	unsigned int i, operator;

	if (rule_count > MOST_RULES || scanf("%u %63s %u", &rule->action, rule->name, &rule->count) != 3 ||
	    rule->count > 6)
		exit(1);
	for (i = 0; i < rule->count; i++) {
		struct scmp_arg_cmp *arg = &rule->args[i];

		if (scanf("%u %u %lu %lu", &arg->arg, &operator, &arg->datum_a, &arg->datum_b) != 4)
			exit(1);
		arg->op = operator;
	}
}

/* What runc does with a profile that it has read. */
static void make(void)
{
	unsigned int i;
	int call;

	status = 0;
	filter = seccomp_init(default_action);
	if (!filter)
		exit(1);
	seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (!keep)
		note(seccomp_arch_remove(filter, SCMP_ARCH_NATIVE));
	for (i = 0; i < (unsigned int)arch_count; i++)
		if (seccomp_arch_exist(filter, arches[i]) != 0)
			note(seccomp_arch_add(filter, arches[i]));
	if (optimize)
		note(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, optimize));
	for (i = 0; i < rule_count; i++) {
		call = seccomp_syscall_resolve_name(rules[i].name);
		if (call != __NR_SCMP_ERROR)
			note(seccomp_rule_add_array(filter, rules[i].action, call, rules[i].count, rules[i].args));
	}
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
	struct timespec began, ended;
	ssize_t length = 0, i;
	int file = memfd_create("program", 0);

	alarm(3);
	clock_gettime(CLOCK_MONOTONIC, &began);
	make();
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
		if (request == 'v')
			version();
		else if (request == 'n')
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
