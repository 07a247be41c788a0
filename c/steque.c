/* The steque of include/steque.h, for a gfserver.o that needs one and a program that brings none. */
#include "steque.h"

#include <stdio.h>
#include <stdlib.h>

static void die(const char *what) {
    fprintf(stderr, "steque: %s\n", what);
    exit(EXIT_FAILURE);
}

static steque_node_t *new_node(steque_item item, steque_node_t *next) {
    steque_node_t *node = malloc(sizeof *node);

    if (node == NULL)
        die("out of memory");
    node->item = item;
    node->next = next;
    return node;
}

void steque_init(steque_t *this) {
    this->front = NULL;
    this->back = NULL;
    this->N = 0;
}

int steque_isempty(steque_t *this) {
    return this->N == 0;
}

int steque_size(steque_t *this) {
    return this->N;
}

void steque_enqueue(steque_t *this, steque_item item) {
    steque_node_t *node = new_node(item, NULL);

    if (this->back == NULL)
        this->front = node;
    else
        this->back->next = node;
    this->back = node;
    this->N++;
}

void steque_push(steque_t *this, steque_item item) {
    this->front = new_node(item, this->front);
    if (this->back == NULL)
        this->back = this->front;
    this->N++;
}

steque_item steque_pop(steque_t *this) {
    steque_node_t *node = this->front;

    if (node == NULL)
        die("pop from an empty steque");
    steque_item item = node->item;
    this->front = node->next;
    if (this->front == NULL)
        this->back = NULL;
    this->N--;
    free(node);
    return item;
}

void steque_cycle(steque_t *this) {
    if (this->front == this->back)
        return;
    steque_node_t *node = this->front;
    this->front = node->next;
    node->next = NULL;
    this->back->next = node;
    this->back = node;
}

steque_item steque_front(steque_t *this) {
    if (this->front == NULL)
        die("front of an empty steque");
    return this->front->item;
}

void steque_destroy(steque_t *this) {
    while (this->front != NULL)
        steque_pop(this);
}
