/* Kills its process at one of its renames, by which our programs make a file durable: loaded with LD_PRELOAD.
   DIE_AT_RENAME is the number of the rename, counted from 1; DIE_AFTER set means: once it was done. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static int count;

int rename(const char *from, const char *to)
{
	int (*real)(const char *, const char *) = (int (*)(const char *, const char *)) dlsym(RTLD_NEXT, "rename");
	const char *at = getenv("DIE_AT_RENAME");
	int now = at && ++count == atoi(at);
	if (now && !getenv("DIE_AFTER"))
		kill(getpid(), SIGKILL);
	int result = real(from, to);
	if (now)
		kill(getpid(), SIGKILL);
	return result;
}
