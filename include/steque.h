/*
 * A stack and queue in one: push and pop at the front, enqueue at the back.
 * ABI-equal to the steque of the GETFILE kit. Not thread-safe: the caller locks.
 */
#ifndef STEQUE_H
#define STEQUE_H

#ifdef __cplusplus
extern "C" {
#endif

typedef void *steque_item;

typedef struct steque_node_t {
    steque_item item;
    struct steque_node_t *next;
} steque_node_t;

typedef struct {
    steque_node_t *front;
    steque_node_t *back;
    int N;
} steque_t;

/* Makes `queue` an empty steque. */
void steque_init(steque_t *queue);

/* 1 if there is no element, else 0. */
int steque_isempty(steque_t *queue);

/* The number of elements. */
int steque_size(steque_t *queue);

/* Adds `item` at the back. Out of memory ends the process with a message. */
void steque_enqueue(steque_t *queue, steque_item item);

/* Adds `item` at the front. Out of memory ends the process with a message. */
void steque_push(steque_t *queue, steque_item item);

/* Removes and returns the front element. An empty steque ends the process with a message. */
steque_item steque_pop(steque_t *queue);

/* Moves the front element to the back. */
void steque_cycle(steque_t *queue);

/* Returns the front element and leaves it. An empty steque ends the process with a message. */
steque_item steque_front(steque_t *queue);

/* Removes all elements; what they point to stays the caller's. */
void steque_destroy(steque_t *queue);

#ifdef __cplusplus
}
#endif

#endif
