/* A sharded hash index of intrusive links: a lock and a growing bucket array a shard.
 *
 * The index owns no element. Whoever looks holds the lock of the hash's shard, walks the chain and compares
 * keys itself.
 */
#pragma once
#include <pthread.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH_SHARDS 64

/* Embedded in an element. */
struct hash_link {
    struct hash_link *next;
    uint64_t hash;
};

struct hash_shard {
    alignas(64) pthread_mutex_t lock;
    struct hash_link **buckets;
    size_t size; /* of the array, a power of two */
    size_t count;
};

struct hash_index {
    struct hash_shard shards[HASH_SHARDS];
};

/* 0 or -ENOMEM, after which hash_index_destroy is fine too. */
int hash_index_init(struct hash_index *index);
/* Forgets the elements. */
void hash_index_destroy(struct hash_index *index);

struct hash_shard *hash_lock(struct hash_index *index, uint64_t hash);
void hash_unlock(struct hash_shard *shard);

/* Under the shard's lock: the first link whose hash is this one, and the next after a link; NULL: no more. */
struct hash_link *hash_first(const struct hash_shard *shard, uint64_t hash);
struct hash_link *hash_next(const struct hash_link *link);
/* Under the shard's lock. Never fails: without memory to grow, chains become longer. */
void hash_insert(struct hash_shard *shard, struct hash_link *link, uint64_t hash);
/* Under the shard's lock. False: it was not in there. */
bool hash_remove(struct hash_shard *shard, const struct hash_link *link);

/* One step of a multiply-and-fold hash: the high half of the product carries what the low half loses. */
static inline uint64_t hash_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* A keyed hash of two numbers that no guest chooses. */
static inline uint64_t hash_numbers(uint64_t seed, uint64_t a, uint64_t b)
{
    return hash_fold(hash_fold(a ^ seed, 0xd6e8feb86659fd93) ^ b, 0xa0761d6478bd642f);
}

/* A keyed hash of bytes: what a guest chooses (names) cannot be made to collide without knowing the seed. */
uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t size);
