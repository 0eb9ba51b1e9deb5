/*
 * A CNI plugin that does nothing, as fast as a process can: it reads its
 * configuration, and answers ADD and VERSION with a fixed text. Started as
 * "hang" it never answers ADD, started as "slow" it takes 20 ms more. With
 * NOOP_COUNT in its environment it adds a byte to that file, so that runs can be
 * counted.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char result[] =
	"{\"cniVersion\":\"1.0.0\","
	"\"interfaces\":[{\"name\":\"eth0\",\"mac\":\"02:00:00:00:00:01\",\"sandbox\":\"/run/netns/pod\"}],"
	"\"ips\":[{\"interface\":0,\"address\":\"10.1.2.3/24\",\"gateway\":\"10.1.2.1\"}],"
	"\"routes\":[{\"dst\":\"0.0.0.0/0\",\"gw\":\"10.1.2.1\"}],\"dns\":{}}\n";

static const char versions[] =
	"{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n";

static int say(const char *text, size_t size)
{
	return write(1, text, size) == (ssize_t)size ? 0 : 1;
}

int main(int argc, char **argv)
{
	static char config[65536];
	const char *verb = getenv("CNI_COMMAND");
	const char *count = getenv("NOOP_COUNT");
	const char *name = argc > 0 ? strrchr(argv[0], '/') : NULL;

	if (count != NULL) {
		int fd = open(count, O_WRONLY | O_APPEND | O_CREAT, 0600);
		if (fd < 0 || write(fd, ".", 1) != 1)
			return 1;
		close(fd);
	}
	while (read(0, config, sizeof config) > 0)
		;
	if (verb == NULL)
		return 1;
	if (strcmp(verb, "ADD") == 0) {
		while (name != NULL && strcmp(name, "/hang") == 0)
			pause();
		if (name != NULL && strcmp(name, "/slow") == 0) {
			struct timespec time = { 0, 20 * 1000 * 1000 };
			nanosleep(&time, NULL);
		}
		return say(result, sizeof result - 1);
	}
	if (strcmp(verb, "VERSION") == 0)
		return say(versions, sizeof versions - 1);
	return 0;
}
