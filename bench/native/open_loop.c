/* An open loop: requests at a fixed rate, whatever the server does. Usage:
   open_loop PORT CONNECTIONS RATE SECONDS BODIES RIGHT HEAD
   BODIES has one JSON request per line; RIGHT has a float64 per line of it, the second probability of the right answer. HEAD has the
   lines of the request's head without its Content-Length. A request goes out over the next free connection; its time counts from
   the moment when it was due. Prints "answered wrong p50_us p99_us rate". */
#define _GNU_SOURCE
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { INBOX = 1 << 14 };
typedef struct { int descriptor, held; long number; char bytes[INBOX + 1]; } Connection;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static void *all(const char *path, long *size) {
  FILE *file = fopen(path, "rb");
  if (!file) exit(2);
  fseek(file, 0, SEEK_END);
  char *text = malloc((*size = ftell(file)) + 1);
  rewind(file);
  if (!text || fread(text, 1, *size, file) != (size_t)*size) exit(2);
  text[*size] = 0;
  return text;
}

static int in_order(const void *one, const void *other) {
  float difference = *(const float *)one - *(const float *)other;
  return (difference > 0) - (difference < 0);
}

int main(int count, char **arguments) {
  if (count != 8) return 2;
  int port = atoi(arguments[1]), many = atoi(arguments[2]), poll = epoll_create1(0), idle = 0, one = 1;
  double rate = atof(arguments[3]), seconds = atof(arguments[4]);
  long size, right_bytes, head_bytes, total = rate * seconds, rows = 0, sent = 0, answered = 0, wrong = 0;
  char *bodies = all(arguments[5], &size), *head = all(arguments[7], &head_bytes);
  double *right = all(arguments[6], &right_bytes);
  char **requests = malloc(right_bytes / sizeof(double) * sizeof(char *));
  float *took = malloc((total + 1) * sizeof(float));
  for (char *line = strtok(bodies, "\n"); line; line = strtok(NULL, "\n"))
    asprintf(&requests[rows++], "%sContent-Length: %zu\r\n\r\n%s", head, strlen(line), line);
  Connection **free_ones = malloc(many * sizeof(Connection *));
  struct sockaddr_in address = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
  for (int index = 0; index < many; index++) {
    Connection *connection = calloc(1, sizeof(Connection));
    connection->descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection->descriptor, (struct sockaddr *)&address, sizeof address)) return 3;
    setsockopt(connection->descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {EPOLLIN, {.ptr = connection}};
    epoll_ctl(poll, EPOLL_CTL_ADD, connection->descriptor, &event);
    free_ones[idle++] = connection;
  }
  struct epoll_event events[256];
  double begun = now(), time = 0;
  while (answered < total && time < seconds + 10) {
    time = now() - begun;
    for (; sent < total && sent / rate <= time && idle; sent++) {
      Connection *connection = free_ones[--idle];
      connection->number = sent, connection->held = 0;
      const char *request = requests[sent % rows];
      if (send(connection->descriptor, request, strlen(request), MSG_NOSIGNAL) < 0) return 3;
    }
    int ready = epoll_wait(poll, events, 256, 0); /* the core is the load's own: it does not sleep */
    for (int index = 0; index < ready; index++) {
      Connection *connection = events[index].data.ptr;
      ssize_t got = recv(connection->descriptor, connection->bytes + connection->held, INBOX - connection->held, 0);
      if (got <= 0) return 3;
      connection->bytes[connection->held += got] = 0;
      char *end = strstr(connection->bytes, "\r\n\r\n"), *length = strcasestr(connection->bytes, "content-length:");
      if (!end || !length || end + 4 + atoi(length + 15) > connection->bytes + connection->held) continue;
      char *value = strstr(end, "\"probabilities\":[");
      value = value ? strchr(value, ',') : NULL;
      wrong += !value || fabs(strtod(value + 1, NULL) - right[connection->number % rows]) > 1e-5;
      took[answered++] = now() - begun - connection->number / rate;
      free_ones[idle++] = connection;
    }
  }
  time = now() - begun;
  qsort(took, answered, sizeof(float), in_order);
  if (answered) printf("%ld %ld %.1f %.1f %.1f\n", answered, wrong + total - answered, took[answered / 2] * 1e6,
                       took[answered * 99 / 100] * 1e6, answered / time);
  return !answered;
}
