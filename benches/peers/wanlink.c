/* wanlink NS_A NS_B DELAY_US RATE_MBIT QUEUE_MS
 * A long-distance link between two network namespaces for kernels without sch_netem:
 * one TUN device "wan0" in each namespace, packets handed across after rate (serialisation,
 * drop-tail queue) and one-way delay.  Prints "up" when both devices exist; ends on SIGTERM.
 * Ends with the process that started it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

struct pkt { uint64_t due; int len; unsigned char *b; };
struct dir { struct pkt *q; size_t head, n, cap; uint64_t free_at; unsigned long long drops; };

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void die(const char *m) { perror(m); exit(1); }

static int tun_in(const char *ns) {
    char p[256]; snprintf(p, sizeof p, "/run/netns/%s", ns);
    int fd = open(p, O_RDONLY | O_CLOEXEC); if (fd < 0) die(p);
    if (setns(fd, CLONE_NEWNET)) die("setns");
    close(fd);
    int t = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC); if (t < 0) die("/dev/net/tun");
    struct ifreq r; memset(&r, 0, sizeof r); strcpy(r.ifr_name, "wan0"); r.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (ioctl(t, TUNSETIFF, &r)) die("TUNSETIFF");
    return t;
}
static void push(struct dir *d, struct pkt p) {
    if (d->n == d->cap) {
        size_t c = d->cap ? d->cap * 2 : 1024; struct pkt *q = malloc(c * sizeof *q);
        for (size_t i = 0; i < d->n; i++) q[i] = d->q[(d->head + i) % d->cap];
        free(d->q); d->q = q; d->cap = c; d->head = 0;
    }
    d->q[(d->head + d->n++) % d->cap] = p;
}
int main(int c, char **v) {
    if (c != 6) { fprintf(stderr, "usage: wanlink NS_A NS_B DELAY_US RATE_MBIT QUEUE_MS\n"); return 2; }
    uint64_t delay = strtoull(v[3], 0, 10) * 1000, qmax = strtoull(v[5], 0, 10) * 1000000;
    double nspb = atof(v[4]) > 0 ? 8000.0 / atof(v[4]) : 0;   /* ns per byte */
    int fd[2] = { tun_in(v[1]), tun_in(v[2]) };
    struct dir d[2]; memset(d, 0, sizeof d);
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    puts("up"); fflush(stdout);
    static unsigned char buf[65536];
    for (;;) {
        uint64_t t = now(), next = UINT64_MAX;
        for (int i = 0; i < 2; i++) {                          /* deliver what is due */
            while (d[i].n && d[i].q[d[i].head].due <= t) {
                struct pkt *p = &d[i].q[d[i].head];
                if (write(fd[!i], p->b, p->len) < 0 && errno == EAGAIN) break;
                free(p->b); d[i].head = (d[i].head + 1) % d[i].cap; d[i].n--;
            }
            if (d[i].n && d[i].q[d[i].head].due < next) next = d[i].q[d[i].head].due;
        }
        struct pollfd pf[2] = { { fd[0], POLLIN, 0 }, { fd[1], POLLIN, 0 } };
        struct timespec ts, *tp = 0; t = now();
        if (next != UINT64_MAX) { uint64_t w = next > t ? next - t : 0; ts.tv_sec = w / 1000000000; ts.tv_nsec = w % 1000000000; tp = &ts; }
        if (ppoll(pf, 2, tp, 0) < 0 && errno != EINTR) die("ppoll");
        for (int i = 0; i < 2; i++) if (pf[i].revents & POLLIN) for (int k = 0; k < 64; k++) {
            ssize_t n = read(fd[i], buf, sizeof buf); if (n <= 0) break;
            t = now();
            uint64_t s = d[i].free_at > t ? d[i].free_at : t;
            if (qmax && s - t > qmax) { d[i].drops++; continue; }
            d[i].free_at = s + (uint64_t)(n * nspb);
            struct pkt p = { d[i].free_at + delay, (int)n, malloc(n) }; memcpy(p.b, buf, n);
            push(&d[i], p);
        }
    }
}
