/* Runs inside test containers. Arguments are commands, separated by ",". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void on_term(int signal) { (void)signal; _exit(7); }

static void cat(const char *path) {
    char buffer[4096];
    int fd = open(path, O_RDONLY);
    if (fd < 0) { printf("%s: %s\n", path, strerror(errno)); return; }
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) fwrite(buffer, 1, n, stdout);
    close(fd);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) { printf("%s: %s\n", path, strerror(errno)); return; }
    ssize_t n = write(fd, text, strlen(text));
    printf("wrote %zd\n", n);
    close(fd);
}

static void identity(void) {
    gid_t groups[64];
    int count = getgroups(64, groups);
    printf("uid=%d gid=%d groups=", getuid(), getgid());
    for (int i = 0; i < count; i++) printf("%s%d", i ? "," : "", groups[i]);
    printf("\n");
}

static void serve(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 8)) { perror("listen"); exit(1); }
    printf("listening\n");
    fflush(stdout);
    for (;;) {
        int peer = accept(fd, 0, 0);
        if (write(peer, "hello\n", 6) != 6) exit(1);
        close(peer);
    }
}

static void echo(void) {
    char line[4096];
    while (fgets(line, sizeof line, stdin)) { printf("got %s", line); fflush(stdout); }
    printf("end of input\n");
}

static int run(int argc, char **argv) {
    const char *command = argv[0], *first = argc > 1 ? argv[1] : "", *second = argc > 2 ? argv[2] : "";
    if (!strcmp(command, "out")) printf("%s\n", first);
    else if (!strcmp(command, "err")) { fprintf(stderr, "%s\n", first); }
    else if (!strcmp(command, "exit")) { fflush(stdout); _exit(atoi(first)); }
    else if (!strcmp(command, "sleep")) { fflush(stdout); sleep(atoi(first)); }
    else if (!strcmp(command, "cat")) cat(first);
    else if (!strcmp(command, "write")) put(first, second);
    else if (!strcmp(command, "id")) identity();
    else if (!strcmp(command, "env")) printf("%s=%s\n", first, getenv(first) ? getenv(first) : "(none)");
    else if (!strcmp(command, "pwd")) { char path[4096]; printf("%s\n", getcwd(path, sizeof path)); }
    else if (!strcmp(command, "unshare")) printf("unshare: %s\n", unshare(CLONE_NEWUSER) ? strerror(errno) : "ok");
    else if (!strcmp(command, "chown")) printf("chown: %s\n", chown(first, 5, 5) ? strerror(errno) : "ok");
    else if (!strcmp(command, "mknod")) printf("mknod: %s\n", mknod(first, S_IFCHR | 0600, makedev(1, 3)) ? strerror(errno) : "ok");
    else if (!strcmp(command, "fork")) { pid_t pid = fork(); if (!pid) _exit(9); int s = 0; waitpid(pid, &s, 0); printf("fork: %d\n", WEXITSTATUS(s)); }
    else if (!strcmp(command, "forks")) { int n = 0; while (n < 100) { pid_t pid = fork(); if (pid < 0) break; if (!pid) { pause(); _exit(0); } n++; } printf("forks: %d\n", n); }
    else if (!strcmp(command, "kill")) { fflush(stdout); kill(getpid(), atoi(first)); }
    else if (!strcmp(command, "raise")) { fflush(stdout); signal(atoi(first), SIG_DFL); raise(atoi(first)); abort(); }
    else if (!strcmp(command, "crash")) { fflush(stdout); volatile int *none = 0; *none = 1; }
    else if (!strcmp(command, "eat")) { fflush(stdout); for (;;) { char *p = malloc(1 << 20); if (p) memset(p, 1, 1 << 20); } }
    else if (!strcmp(command, "catch-term")) signal(SIGTERM, on_term);
    else if (!strcmp(command, "ignore-term")) signal(SIGTERM, SIG_IGN);
    else if (!strcmp(command, "tty")) { struct winsize w = {0}; int t = isatty(0); ioctl(0, TIOCGWINSZ, &w); printf("tty=%d %dx%d %s\n", t, w.ws_col, w.ws_row, t ? ttyname(0) : "-"); }
    else if (!strcmp(command, "wait-size")) { struct winsize w = {0}; while (!w.ws_col) { ioctl(0, TIOCGWINSZ, &w); usleep(10000); } printf("size %dx%d\n", w.ws_col, w.ws_row); }
    else if (!strcmp(command, "serve")) serve(atoi(first));
    else if (!strcmp(command, "echo")) echo();
    else if (!strcmp(command, "hostname")) { char name[256]; gethostname(name, sizeof name); printf("%s\n", name); }
    else if (!strcmp(command, "bytes")) for (int i = atoi(first); i > 0; i--) putchar('x');
    else { fprintf(stderr, "unknown command %s\n", command); return 99; }
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    for (int start = 1, at = 1; at <= argc; at++) {
        if (at < argc && strcmp(argv[at], ",")) continue;
        int code = at > start ? run(at - start, argv + start) : 0;
        if (code) return code;
        start = at + 1;
    }
    return 0;
}
