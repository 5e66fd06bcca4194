/* What a C program pays to send: COUNT packets made beforehand, BATCH a sendmmsg, to a raw or a packet socket.
 *
 *   send_loop raw|packet INTERFACE PACKETS SIZE COUNT BATCH
 *
 * PACKETS is a file of IPv4 packets of SIZE bytes each, for `packet` with their Ethernet header. Prints microseconds a
 * packet: wall, CPU of this process. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum { DESTINATION_OFFSET = 16 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double microseconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static double microseconds_of_cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static int packet_socket(const char *interface) {
    int descriptor = socket(AF_PACKET, SOCK_RAW, 0);
    if (descriptor < 0) fail("socket");
    struct sockaddr_ll here = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(interface)};
    if (bind(descriptor, (struct sockaddr *)&here, sizeof here)) fail("bind");
    return descriptor;
}

int main(int count_of_arguments, char **argument) {
    if (count_of_arguments != 7) return 2;
    int is_packet = !strcmp(argument[1], "packet");
    size_t size = strtoul(argument[4], NULL, 10);
    long count = strtol(argument[5], NULL, 10), batch = strtol(argument[6], NULL, 10);
    FILE *file = fopen(argument[3], "rb");
    if (!file) fail(argument[3]);
    fseek(file, 0, SEEK_END);
    size_t packets = ftell(file) / size;
    rewind(file);
    char *bytes = malloc(packets * size);
    if (fread(bytes, size, packets, file) != packets) fail("fread");

    struct mmsghdr *messages = calloc(packets, sizeof *messages);
    struct iovec *vectors = calloc(packets, sizeof *vectors);
    struct sockaddr_in *names = calloc(packets, sizeof *names);
    for (size_t at = 0; at < packets; at++) {
        vectors[at] = (struct iovec){bytes + at * size, size};
        messages[at].msg_hdr.msg_iov = &vectors[at];
        messages[at].msg_hdr.msg_iovlen = 1;
        if (is_packet) continue;
        names[at].sin_family = AF_INET;
        memcpy(&names[at].sin_addr, bytes + at * size + DESTINATION_OFFSET, 4);
        messages[at].msg_hdr.msg_name = &names[at];
        messages[at].msg_hdr.msg_namelen = sizeof names[at];
    }
    int descriptor = is_packet ? packet_socket(argument[2]) : socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (descriptor < 0) fail("socket");
    /* Whoever traces also listens, and then this kernel stamps every packet that arrives in any of its namespaces. */
    if (setsockopt(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, &(int){1}, sizeof(int))) fail("setsockopt");

    double started = microseconds_now(), cpu = microseconds_of_cpu();
    size_t at = 0;
    for (long sent = 0; sent < count;) {
        if (at + batch > packets) at = 0;
        int taken = sendmmsg(descriptor, messages + at, batch, 0);
        if (taken < 0 && errno != EAGAIN && errno != ENOBUFS) fail("sendmmsg");
        if (taken > 0) sent += taken, at += taken;
    }
    printf("%f %f\n", (microseconds_now() - started) / count, (microseconds_of_cpu() - cpu) / count);
    return 0;
}
