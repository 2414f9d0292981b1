/*
 * The floor: what `runc run` of `runc spec`'s config has to do for /bin/true on cgroup v2, in system calls and
 * nothing else. No config is read, no state is kept, no path is checked for symbolic links, nobody is told of
 * progress: a runtime must do those too, so it cannot be faster than this unless it finds cheaper calls.
 *
 *   gcc -O2 -static -o bare bare.c && ./bare ROOTFS [CGROUP2_MOUNT]
 *
 * And likewise for `runc exec` of /bin/true, in the container whose first process and cgroup these are:
 *
 *   ./bare exec PID CGROUP
 *
 * -DNO_DEVICES leaves out the cgroup's device program, to see what it costs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUP2_MAGIC 0x63677270
#define KEYCTL_JOIN_SESSION 1

static char cgroup[4096]; /* set while it has to be removed */

static _Noreturn void fail(int line, const char *what)
{
	fprintf(stderr, "bare.c:%d: %s: %s\n", line, what, strerror(errno));
	if (cgroup[0])
		rmdir(cgroup);
	_exit(125);
}

#define CK(call)                                                                                                       \
	({                                                                                                             \
		long r_ = (long)(call);                                                                                \
		if (r_ < 0)                                                                                            \
			fail(__LINE__, #call);                                                                         \
		r_;                                                                                                    \
	})

/* --- the parent: a cgroup with a device program ------------------------------------------------------------------ */

#ifndef NO_DEVICES
#define I(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define LOAD(reg, field) I(BPF_LDX | BPF_MEM | BPF_W, reg, 1, offsetof(struct bpf_cgroup_dev_ctx, field), 0)
#define JUMP(op, reg, imm, off) I(BPF_JMP | op | BPF_K, reg, 0, off, imm)
#define SET(reg, imm) I(BPF_ALU64 | BPF_MOV | BPF_K, reg, 0, 0, imm)
#define EXIT I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

/* deny all, but for the devices that every container has, and mknod */
static void limit_devices(int dir)
{
	static const struct bpf_insn prog[] = {
		LOAD(2, access_type), LOAD(4, major), LOAD(5, minor),
		I(BPF_ALU64 | BPF_MOV | BPF_X, 3, 2, 0, 0),
		I(BPF_ALU64 | BPF_RSH | BPF_K, 3, 0, 0, 16),		/* r3: access */
		I(BPF_ALU64 | BPF_AND | BPF_K, 2, 0, 0, 0xffff),	/* r2: block or char */
		SET(0, 1),
		JUMP(BPF_JEQ, 3, BPF_DEVCG_ACC_MKNOD, 13),
		JUMP(BPF_JNE, 2, BPF_DEVCG_DEV_CHAR, 11),
		JUMP(BPF_JEQ, 4, 136, 11),				/* terminals */
		JUMP(BPF_JNE, 4, 1, 5),
		JUMP(BPF_JEQ, 5, 3, 9),					/* null */
		JUMP(BPF_JEQ, 5, 5, 8),					/* zero */
		JUMP(BPF_JEQ, 5, 7, 7),					/* full */
		JUMP(BPF_JEQ, 5, 8, 6),					/* random */
		JUMP(BPF_JEQ, 5, 9, 5),					/* urandom */
		JUMP(BPF_JNE, 4, 5, 3),
		JUMP(BPF_JEQ, 5, 0, 3),					/* tty */
		JUMP(BPF_JEQ, 5, 1, 2),					/* console */
		JUMP(BPF_JEQ, 5, 2, 1),					/* ptmx */
		SET(0, 0),
		EXIT,
	};
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
		.insns = (uintptr_t)prog,
		.insn_cnt = sizeof prog / sizeof prog[0],
		.license = (uintptr_t)"Apache-2.0",
	};
	int fd = CK(syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
	union bpf_attr attach = {
		.target_fd = dir,
		.attach_bpf_fd = fd,
		.attach_type = BPF_CGROUP_DEVICE,
		.attach_flags = BPF_F_ALLOW_MULTI,
	};
	CK(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
	CK(close(fd));
}
#endif

/* --- the child: the container's init ----------------------------------------------------------------------------- */

static void loopback_up(void)
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int s = CK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	CK(ioctl(s, SIOCSIFFLAGS, &ifr));
	CK(close(s));
}

static void mountpoint(const char *path)
{
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		fail(__LINE__, path);
}

static void mounts(const char *rootfs)
{
	const unsigned long safe = MS_NOSUID | MS_NOEXEC | MS_NODEV;

	CK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	CK(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL));
	CK(chdir(rootfs));
	mountpoint("proc");
	mountpoint("dev");
	mountpoint("sys");
	CK(mount("proc", "proc", "proc", 0, NULL));
	CK(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	CK(mkdir("dev/pts", 0755));
	CK(mkdir("dev/shm", 0755));
	CK(mkdir("dev/mqueue", 0755));
	CK(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	CK(mount("shm", "dev/shm", "tmpfs", safe, "mode=1777,size=65536k"));
	CK(mount("mqueue", "dev/mqueue", "mqueue", safe, NULL));
	CK(mount("sysfs", "sys", "sysfs", safe | MS_RDONLY, NULL));
	CK(mount("cgroup", "sys/fs/cgroup", "cgroup2", safe | MS_RELATIME | MS_RDONLY, NULL));
}

static void devices(void)
{
	static const struct { const char *path; int major, minor; } nodes[] = {
		{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7},
		{"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
	};
	static const char *const links[][2] = {
		{"pts/ptmx", "dev/ptmx"}, {"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
	};

	for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++)
		CK(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
	for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
		CK(symlink(links[i][0], links[i][1]));
}

/* a path that this kernel has not got needs no cover, as the specification says */
static void cover(void)
{
	static const char *const masked[] = {
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
	};
	static const char *const readonly[] = {
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
	};

	for (size_t i = 0; i < sizeof masked / sizeof masked[0]; i++) {
		if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) == 0 || errno == ENOENT)
			continue;
		if (errno != ENOTDIR)
			fail(__LINE__, masked[i]);
		CK(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1"));
	}
	for (size_t i = 0; i < sizeof readonly / sizeof readonly[0]; i++) {
		if (mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL) < 0) {
			if (errno == ENOENT)
				continue;
			fail(__LINE__, readonly[i]);
		}
		CK(mount(NULL, readonly[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	}
}

/* the config's three, and nothing inheritable or ambient */
static void capabilities(int last)
{
	const uint64_t keep = 1ull << CAP_AUDIT_WRITE | 1ull << CAP_KILL | 1ull << CAP_NET_BIND_SERVICE;
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{(uint32_t)keep, (uint32_t)keep, 0}};

	for (int cap = 0; cap <= last; cap++)
		if (!(keep >> cap & 1))
			CK(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
	CK(syscall(SYS_capset, &head, data));
}

static int last_cap(void)
{
	char text[16];
	int fd = CK(open("/proc/sys/kernel/cap_last_cap", O_RDONLY | O_CLOEXEC));
	ssize_t n = CK(read(fd, text, sizeof text - 1));
	text[n] = 0;
	CK(close(fd));
	return atoi(text);
}

/* as the config has it, for the first process and for later ones */
static _Noreturn void program(int last)
{
	static char *const argv[] = {"/bin/true", NULL};
	static char *const envp[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "HOME=/root", NULL,
	};
	const struct rlimit files = {1024, 1024};

	umask(022);
	CK(setrlimit(RLIMIT_NOFILE, &files));
	CK(setgroups(0, NULL));
	CK(setresgid(0, 0, 0));
	CK(setresuid(0, 0, 0));
	capabilities(last);
	CK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CK(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC));
	CK(execve(argv[0], argv, envp));
	abort();
}

static _Noreturn void init(const char *rootfs)
{
	CK(setsid());
	CK(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION, "bare"));
	CK(unshare(CLONE_NEWCGROUP)); /* not with clone3: its root would be the parent's cgroup */
	umask(0);
	mounts(rootfs);
	devices();
	loopback_up();
	CK(sethostname("runc", 4));
	CK(syscall(SYS_pivot_root, ".", "."));
	CK(umount2(".", MNT_DETACH));
	CK(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	cover();
	CK(chdir("/"));
	program(last_cap());
}

/* --- another process in a container ------------------------------------------------------------------------------ */

static int join(pid_t container, const char *group)
{
	int target = CK(syscall(SYS_pidfd_open, container, 0));
	int dir = CK(open(group, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	int last = last_cap();
	int status;

	CK(setns(target, CLONE_NEWPID)); /* of the child */
	struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = dir};
	long pid = CK(syscall(SYS_clone3, &args, sizeof args));
	if (pid == 0) {
		CK(setns(target, CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET));
		CK(setsid());
		CK(chdir("/"));
		program(last);
	}
	CK(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	const char *top = argc > 2 ? argv[2] : "/sys/fs/cgroup";
	char path[sizeof cgroup];
	struct statfs fs;
	int status;

	if (argc == 4 && strcmp(argv[1], "exec") == 0)
		return join(atoi(argv[2]), argv[3]);
	if (argc < 2 || argc > 3 || argv[1][0] != '/') {
		fprintf(stderr, "usage: bare /ROOTFS [CGROUP2_MOUNT] | bare exec PID CGROUP\n");
		return 2;
	}
	CK(statfs(top, &fs));
	if (fs.f_type != CGROUP2_MAGIC) {
		fprintf(stderr, "bare: %s is not a cgroup v2 mount\n", top);
		return 2;
	}
	snprintf(path, sizeof path, "%s/bare-%d", top, getpid());
	CK(mkdir(path, 0755));
	strcpy(cgroup, path);
	int dir = CK(open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
#ifndef NO_DEVICES
	limit_devices(dir);
#endif
	struct clone_args args = {
		.flags = CLONE_INTO_CGROUP | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS,
		.exit_signal = SIGCHLD,
		.cgroup = dir,
	};
	long pid = CK(syscall(SYS_clone3, &args, sizeof args));
	if (pid == 0) {
		cgroup[0] = 0; /* the parent removes it */
		init(argv[1]);
	}
	CK(waitpid(pid, &status, 0));
	cgroup[0] = 0;
	CK(rmdir(path));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
