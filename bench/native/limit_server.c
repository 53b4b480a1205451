/* The limit for a server of a tree model on one core: HTTP over epoll, a row by strtod, trees as flat arrays, no features.
   Usage: limit_server MODEL PORT. bench/native/__init__.py compiles this file and writes MODEL. */
#define _GNU_SOURCE
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, INBOX = 1 << 16, DESCRIPTORS = 4096 };
typedef struct { int feature, left, right; float value; } Node; /* feature -1: a leaf */
typedef struct { int held; char bytes[INBOX + 1]; } Connection;

static int counts[3]; /* features, trees, nodes */
static float base, *offset, *scale, *row;
static int *roots;
static Node *nodes;
static Connection *connections[DESCRIPTORS];

static void *take(FILE *file, size_t bytes) {
  void *block = malloc(bytes);
  if (!block || fread(block, 1, bytes, file) != bytes) exit(2);
  return block;
}

static float probability(void) {
  float score = base;
  for (int tree = 0; tree < counts[1]; tree++) {
    const Node *node = nodes + roots[tree];
    while (node->feature >= 0) node = nodes + (row[node->feature] <= node->value ? node->left : node->right);
    score += node->value;
  }
  return 1.0f / (1.0f + expf(-score));
}

/* Answers the complete request that the inbox holds, if any. Returns 0 when the connection must be closed. */
static int answer(int descriptor, Connection *connection) {
  char body[256], reply[512];
  connection->bytes[connection->held] = 0;
  char *end = strstr(connection->bytes, "\r\n\r\n"), *length = strcasestr(connection->bytes, "content-length:");
  if (!end) return connection->held < INBOX;
  if (!length || length > end) return 0;
  if (end + 4 + atoi(length + 15) > connection->bytes + connection->held) return connection->held < INBOX;
  char *next = strstr(end, "[[");
  if (!next) return 0;
  next++;
  for (int column = 0; column < counts[0]; column++) {
    if (*next != (column ? ',' : '[')) return 0;
    row[column] = ((float)strtod(next + 1, &next) - offset[column]) * scale[column];
  }
  float second = probability();
  int size = sprintf(body, "{\"predictions\":[{\"label\":%d,\"probabilities\":[%.9g,%.9g]}]}", second > 0.5f, 1 - second, second);
  size = sprintf(reply, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", size, body);
  connection->held = 0;
  return send(descriptor, reply, size, MSG_NOSIGNAL) == size;
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  FILE *model = fopen(arguments[1], "rb");
  if (!model || fread(counts, sizeof counts, 1, model) != 1 || fread(&base, sizeof base, 1, model) != 1) return 2;
  offset = take(model, counts[0] * sizeof(float)), scale = take(model, counts[0] * sizeof(float));
  roots = take(model, counts[1] * sizeof(int)), nodes = take(model, counts[2] * sizeof(Node));
  row = malloc(counts[0] * sizeof(float));
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
  struct sockaddr_in address = {AF_INET, htons(atoi(arguments[2])), {htonl(INADDR_LOOPBACK)}, {0}};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) return 2;
  struct epoll_event events[EVENTS], event = {EPOLLIN, {.fd = listener}};
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int ready = epoll_wait(poll, events, EVENTS, -1);
    for (int index = 0; index < ready; index++) {
      int descriptor = events[index].data.fd;
      if (descriptor == listener) {
        event.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (event.data.fd < 0) continue;
        if (event.data.fd >= DESCRIPTORS) { close(event.data.fd); continue; }
        if (!connections[event.data.fd]) connections[event.data.fd] = malloc(sizeof(Connection));
        connections[event.data.fd]->held = 0;
        setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
        continue;
      }
      Connection *connection = connections[descriptor];
      ssize_t got = recv(descriptor, connection->bytes + connection->held, INBOX - connection->held, 0);
      if (got > 0) connection->held += got;
      if (got <= 0 || !answer(descriptor, connection)) close(descriptor);
    }
  }
}
