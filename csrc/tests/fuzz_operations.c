/* Fuzz every operation of a passthrough mount: requests in a row, with nodeids and handles that the guest was given, and with
 * any others. Nothing may crash, leave the share, or keep a descriptor beyond the session; the loopback checks each reply.
 */
#define _GNU_SOURCE 1
#include "check.h"
#include "wild_guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct loopback loopback;
    static struct wild_guest guest;
    struct wild_choices choices = {bytes, size};
    size_t before = loopback_open_descriptors();
    wild_loopback_create(&loopback, wild_choice(&choices));
    wild_guest_begin(&guest, &loopback);
    while (choices.left > 0)
        wild_guest_request(&guest, &choices);
    wild_guest_end(&guest);
    loopback_destroy(&loopback);
    CHECK_EQUAL(loopback_open_descriptors(), before);
    return 0;
}
