/*
 * Which instructions a program and all that it forks execute: the address of each, once, in the order of their first
 * execution, in hexadecimal, on descriptor 3. For `order`, beside this file.
 *
 *   executed LOW HIGH PROGRAM ARGUMENTS...      (LOW and HIGH: where the program's text is, in hexadecimal)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define GRAIN 4 /* bytes: less than any function */

int main(int count, char **arguments)
{
	if (count < 4)
		return 2;
	unsigned long low = strtoul(arguments[1], NULL, 16), high = strtoul(arguments[2], NULL, 16);
	char *seen = calloc((high - low) / GRAIN + 1, 1);
	FILE *out = fdopen(3, "w");
	if (!seen || !out)
		return 2;
	pid_t first = fork();
	if (first == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		close(3);
		raise(SIGSTOP);
		execv(arguments[3], arguments + 3);
		_exit(127);
	}
	int status, result = 0;
	waitpid(first, &status, 0);
	ptrace(PTRACE_SETOPTIONS, first, 0,
	       PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC);
	ptrace(PTRACE_SINGLESTEP, first, 0, 0);
	for (;;) {
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0)
			break;
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (pid == first)
				result = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
			continue;
		}
		int deliver = WSTOPSIG(status), event = status >> 16;
		if (deliver == SIGTRAP || (deliver == SIGSTOP && event == 0) || event)
			deliver = 0;
		struct user_regs_struct registers;
		if (ptrace(PTRACE_GETREGS, pid, 0, &registers) == 0 && registers.rip >= low && registers.rip < high) {
			char *grain = &seen[(registers.rip - low) / GRAIN];
			if (!*grain)
				fprintf(out, "%llx\n", registers.rip);
			*grain = 1;
		}
		ptrace(PTRACE_SINGLESTEP, pid, 0, deliver);
	}
	fclose(out);
	return result;
}
