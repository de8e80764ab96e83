/* Acting as the caller, for one request, on one thread; the contract is in passthrough.h.
 *
 * glibc's wrappers change the credentials of all threads together, so system calls are made raw here. The
 * file-system ids (setfsuid) are what new files are owned by; nothing else of the thread changes, and
 * SECBIT_NO_SETUID_FIXUP keeps its capabilities. One is given up on purpose while another user's request
 * runs: CAP_FSETID, which would let a user make files set-group-id for a group that is not theirs.
 */
#define _GNU_SOURCE 1
#include "passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the thread is when no request runs. Capabilities are read once: only this file changes them. */
static _Thread_local struct {
    bool known;
    bool sets_groups; /* its own supplementary groups are gone, and it may take others */
    uint32_t uid;
    uint32_t gid;
    uint32_t accepted_uid; /* the kernel is known to take them: no asking again */
    uint32_t accepted_gid;
    uint32_t umask;
    uint64_t effective; /* capabilities, one bit each */
    uint64_t dropped;   /* of those, not in force at the moment */
    struct __user_cap_data_struct capabilities[_LINUX_CAPABILITY_U32S_3];
} own;

#define CAPABILITY(number) (1ULL << (number))

static long set_capabilities(uint64_t effective)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    own.capabilities[0].effective = (uint32_t)effective;
    own.capabilities[1].effective = (uint32_t)(effective >> 32);
    return syscall(SYS_capset, &header, own.capabilities);
}

/* Which of `capabilities` were in force and are not any more. */
static uint64_t drop(uint64_t capabilities)
{
    capabilities &= own.effective & ~own.dropped;
    if (capabilities == 0 || set_capabilities(own.effective & ~own.dropped & ~capabilities) != 0)
        return 0;
    own.dropped |= capabilities;
    return capabilities;
}

static void regain(uint64_t capabilities)
{
    own.dropped &= ~capabilities;
    (void)set_capabilities(own.effective & ~own.dropped); /* they are permitted: it cannot be refused */
}

static void learn(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    own.uid = own.accepted_uid = (uint32_t)syscall(SYS_geteuid);
    own.gid = own.accepted_gid = (uint32_t)syscall(SYS_getegid);
    own.effective = own.dropped = 0;
    if (syscall(SYS_capget, &header, own.capabilities) == 0)
        own.effective = own.capabilities[0].effective | (uint64_t)own.capabilities[1].effective << 32;
    own.known = true;
}

int credentials_prepare_thread(int proc_self_fd)
{
    if (unshare(CLONE_FS) != 0 || fchdir(proc_self_fd) != 0)
        return -errno;
    umask(0);
    own.umask = 0;
    int securebits = prctl(PR_GET_SECUREBITS);
    if (securebits >= 0 && (securebits & SECBIT_NO_SETUID_FIXUP) == 0)
        (void)prctl(PR_SET_SECUREBITS,
                    securebits | SECBIT_NO_SETUID_FIXUP); /* without CAP_SETPCAP there is little to keep */
    learn();
    /* The daemon's groups are not the caller's: a file of theirs would count as of the caller's own group. */
    own.sets_groups = (own.effective & CAPABILITY(CAP_SETGID)) != 0 && syscall(SYS_setgroups, 0, NULL) == 0;
    return 0;
}

static bool take_gid(uint32_t gid)
{
    syscall(SYS_setfsgid, gid);
    if (gid == own.gid || gid == own.accepted_gid)
        return true;
    if ((uint32_t)syscall(SYS_setfsgid, UINT32_MAX) != gid)
        return false;
    own.accepted_gid = gid;
    return true;
}

static bool take_uid(uint32_t uid)
{
    syscall(SYS_setfsuid, uid);
    if (uid == own.uid || uid == own.accepted_uid)
        return true;
    if ((uint32_t)syscall(SYS_setfsuid, UINT32_MAX) != uid)
        return false;
    own.accepted_uid = uid;
    return true;
}

int credentials_assume(const struct request *request, struct credentials *credentials)
{
    if (!own.known)
        learn();
    uint32_t group;
    uint32_t uid = request->in.uid;
    uint32_t gid = request->in.gid;
    /* A daemon without power serves what its user may do: the guest's root is that user. */
    if (uid == 0 && !(own.effective & CAPABILITY(CAP_SETUID)))
        uid = own.uid;
    if (gid == 0 && !(own.effective & CAPABILITY(CAP_SETGID)))
        gid = own.gid;
    *credentials = (struct credentials){.uid = uid, .gid = gid};
    if (uid == own.uid && gid == own.gid)
        return 0;
    if (uid == UINT32_MAX || gid == UINT32_MAX)
        return -EPERM;
    credentials->switched = true;
    if (!take_gid(gid) || !take_uid(uid)) {
        credentials_restore(credentials);
        return -EPERM;
    }
    if (own.sets_groups && request_supplementary_group(request, &group))
        credentials->grouped = syscall(SYS_setgroups, 1, &group) == 0;
    if (uid != own.uid)
        credentials->fsetid_dropped = credentials_drop_fsetid();
    return 0;
}

void credentials_restore(const struct credentials *credentials)
{
    if (credentials->fsetid_dropped)
        credentials_regain_fsetid();
    if (credentials->grouped)
        syscall(SYS_setgroups, 0, NULL);
    if (!credentials->switched)
        return;
    if (credentials->uid != own.uid)
        take_uid(own.uid);
    if (credentials->gid != own.gid)
        take_gid(own.gid);
}

void credentials_set_umask(uint32_t mask)
{
    mask &= 0777;
    if (mask == own.umask)
        return;
    umask(mask);
    own.umask = mask;
}

bool credentials_drop_fsetid(void)
{
    if (!own.known)
        learn();
    return drop(CAPABILITY(CAP_FSETID)) != 0;
}

void credentials_regain_fsetid(void)
{
    regain(CAPABILITY(CAP_FSETID));
}

uint64_t credentials_drop_overrides(void)
{
    if (!own.known)
        learn();
    return drop(CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_DAC_READ_SEARCH));
}

void credentials_regain_overrides(uint64_t dropped)
{
    if (dropped != 0)
        regain(dropped);
}
