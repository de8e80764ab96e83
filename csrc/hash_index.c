/* The sharded hash index; the contract is in hash_index.h. */
#include "hash_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HASH_BUCKETS 16 /* a shard starts with */

int hash_index_init(struct hash_index *index)
{
    int error = 0;
    for (size_t i = 0; i < HASH_SHARDS; i++) {
        struct hash_shard *shard = &index->shards[i];
        pthread_mutex_init(&shard->lock, NULL);
        shard->count = 0;
        shard->size = HASH_BUCKETS;
        shard->buckets = calloc(HASH_BUCKETS, sizeof(struct hash_link *));
        if (shard->buckets == NULL)
            error = -ENOMEM;
    }
    return error;
}

void hash_index_destroy(struct hash_index *index)
{
    for (size_t i = 0; i < HASH_SHARDS; i++) {
        free(index->shards[i].buckets);
        pthread_mutex_destroy(&index->shards[i].lock);
    }
}

struct hash_shard *hash_lock(struct hash_index *index, uint64_t hash)
{
    /* The top bits choose the shard, the low ones the bucket. */
    struct hash_shard *shard = &index->shards[hash >> 58];
    pthread_mutex_lock(&shard->lock);
    return shard;
}

_Static_assert(HASH_SHARDS == 1 << (64 - 58), "the shard is chosen by the top six bits");

void hash_unlock(struct hash_shard *shard)
{
    pthread_mutex_unlock(&shard->lock);
}

static struct hash_link **bucket_of(const struct hash_shard *shard, uint64_t hash)
{
    return &shard->buckets[hash & (shard->size - 1)];
}

static struct hash_link *skip_to(struct hash_link *link, uint64_t hash)
{
    while (link != NULL && link->hash != hash)
        link = link->next;
    return link;
}

struct hash_link *hash_first(const struct hash_shard *shard, uint64_t hash)
{
    return skip_to(*bucket_of(shard, hash), hash);
}

struct hash_link *hash_next(const struct hash_link *link)
{
    return skip_to(link->next, link->hash);
}

static void grow(struct hash_shard *shard)
{
    size_t size = shard->size * 2;
    struct hash_link **buckets = calloc(size, sizeof(struct hash_link *));
    if (buckets == NULL)
        return;
    struct hash_link **old = shard->buckets;
    size_t old_size = shard->size;
    shard->buckets = buckets;
    shard->size = size;
    for (size_t i = 0; i < old_size; i++) {
        struct hash_link *link = old[i];
        while (link != NULL) {
            struct hash_link *next = link->next;
            struct hash_link **bucket = bucket_of(shard, link->hash);
            link->next = *bucket;
            *bucket = link;
            link = next;
        }
    }
    free(old);
}

void hash_insert(struct hash_shard *shard, struct hash_link *link, uint64_t hash)
{
    if (shard->count >= shard->size)
        grow(shard);
    struct hash_link **bucket = bucket_of(shard, hash);
    link->hash = hash;
    link->next = *bucket;
    *bucket = link;
    shard->count++;
}

bool hash_remove(struct hash_shard *shard, const struct hash_link *link)
{
    for (struct hash_link **at = bucket_of(shard, link->hash); *at != NULL; at = &(*at)->next) {
        if (*at == link) {
            *at = link->next;
            shard->count--;
            return true;
        }
    }
    return false;
}

static uint64_t word_at(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    return word;
}

/* Less than a word, each byte in it at least once: with the size they are told apart. */
static uint64_t few_bytes(const uint8_t *bytes, size_t size)
{
    uint32_t first = 0;
    uint32_t last = 0;
    if (size >= sizeof(first)) {
        memcpy(&first, bytes, sizeof(first));
        memcpy(&last, bytes + size - sizeof(last), sizeof(last));
    } else if (size > 0) {
        first = bytes[0] | (uint32_t)bytes[size / 2] << 8;
        last = bytes[size - 1];
    }
    return first | (uint64_t)last << 32;
}

uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t size)
{
    const uint8_t *from = bytes;
    const uint64_t key = 0xd6e8feb86659fd93 ^ seed;
    uint64_t hash = seed ^ hash_fold(size ^ 0x9e3779b97f4a7c15, seed | 1);
    size_t left = size;
    for (; left > sizeof(uint64_t); left -= sizeof(uint64_t)) {
        hash = hash_fold(hash ^ word_at(from), key);
        from += sizeof(uint64_t);
    }
    /* The last word may begin in the one before. */
    uint64_t last =
        size >= sizeof(uint64_t) ? word_at(from + left - sizeof(uint64_t)) : few_bytes(from, size);
    return hash_fold(hash_fold(hash ^ last, key), 0xa0761d6478bd642f);
}
