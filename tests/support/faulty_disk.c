/* A disk that fails when it is told to, and remembers what was synced: preloaded (LD_PRELOAD)
 * into a process, it stands between that process and the system's calls on files.
 *
 * Only the folder in FAULTY_DISK and what is in it are looked at. The process talks to it by the
 * functions named disk_*, see faulty_disk.py. One thread.
 *
 * With a trace, each call that changed something is written to a file of its own, in order:
 *     op (1 byte), number of the file (4), offset or length (8), length of data (4), data
 *     F  a file got this number; data: its path        W  data written at the offset
 *     C  it was made                                    T  cut to the length
 *     A  made at least that long                        S  synced
 *     R  renamed; data: the new path                    U  removed
 *     X  syncing it failed: nobody knows what of it is on the disk, and it stays that way
 *     N  a note of the process; the offset is its number
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX 4096
#define FDS_MAX 4096

struct file {
    char path[PATH_MAX];
    int is_folder;
    int is_dirty;
};

static struct file files[FILES_MAX];
static int file_count;
/* Number of the file + 1 that a descriptor belongs to, 0 for those that are not watched. */
static int file_of[FDS_MAX];

static long calls, fail_at, syncs, fail_sync_at;
static int fail_errno, fail_for_ever;
static int trace_fd = -1;
static char broken_rule[256];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

/* --- what the process tells and asks ----------------------------------------------------- */

/* The nth call from now fails with this errno, and all after it if it is for ever; 0: none. */
void disk_fail(long nth, int error, int for_ever)
{
    calls = 0;
    fail_at = nth;
    fail_errno = error;
    fail_for_ever = for_ever;
}

/* The nth time from now that a file is synced fails, whatever else does. */
void disk_fail_sync(long nth)
{
    fail_sync_at = syncs + nth;
}

/* Calls since then. */
long disk_calls(void)
{
    return calls;
}

long disk_syncs(void)
{
    return syncs;
}

static int ends_with(const char *path, const char *end)
{
    size_t length = strlen(path), wanted = strlen(end);
    return length >= wanted && strcmp(path + length - wanted, end) == 0;
}

/* Does a file with such a name have something that was not synced? */
int disk_is_dirty(const char *end)
{
    for (int i = 0; i < file_count; i++)
        if (files[i].is_dirty && ends_with(files[i].path, end))
            return 1;
    return 0;
}

/* The first thing done in an order that a power loss could turn into damage; "" if none. */
const char *disk_broken_rule(void)
{
    return broken_rule;
}

static void record(char op, int file, int64_t at, const void *data, uint32_t length)
{
    char head[17];
    int32_t number = file;
    if (trace_fd < 0)
        return;
    head[0] = op;
    memcpy(head + 1, &number, 4);
    memcpy(head + 5, &at, 8);
    memcpy(head + 13, &length, 4);
    if (REAL(write)(trace_fd, head, sizeof head) != sizeof head ||
        (length && REAL(write)(trace_fd, data, length) != (ssize_t)length))
        abort();
}

void disk_trace(const char *path)
{
    trace_fd = REAL(open)(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (trace_fd < 0)
        abort();
}

void disk_note(long number)
{
    record('N', -1, number, NULL, 0);
}

/* --- files ------------------------------------------------------------------------------- */

/* Its number, -1 when it is not to be looked at. */
static int number_of(const char *path)
{
    static const char *folder;
    size_t length;
    if (!folder && !(folder = getenv("FAULTY_DISK")))
        abort();
    length = strlen(folder);
    if (strncmp(path, folder, length) != 0 || (path[length] && path[length] != '/'))
        return -1;
    for (int i = 0; i < file_count; i++)
        if (strcmp(files[i].path, path) == 0)
            return i;
    if (file_count == FILES_MAX)
        abort();
    snprintf(files[file_count].path, PATH_MAX, "%s", path);
    record('F', file_count, 0, path, strlen(path));
    return file_count++;
}

static int watched(int fd)
{
    return fd >= 0 && fd < FDS_MAX ? file_of[fd] - 1 : -1;
}

/* One call on a watched file: does it fail? */
static int fails(void)
{
    calls++;
    if (fail_at && (calls == fail_at || (fail_for_ever && calls > fail_at))) {
        errno = fail_errno;
        return 1;
    }
    return 0;
}

static void breaks(const char *rule, const char *path)
{
    if (!broken_rule[0])
        snprintf(broken_rule, sizeof broken_rule, "%s: %.150s", rule, path);
}

/* Of a log its database, and the other way round: has it something that was not synced? */
static int is_partner_dirty(const char *path)
{
    char partner[PATH_MAX + 4];
    int is_log = ends_with(path, "-wal");
    snprintf(partner, sizeof partner, "%s%s", path, is_log ? "" : "-wal");
    if (is_log)
        partner[strlen(partner) - 4] = 0;
    for (int i = 0; i < file_count; i++)
        if (files[i].is_dirty && strcmp(files[i].path, partner) == 0)
            return 1;
    return 0;
}

/* SQLite's log may be used anew only when the database has what was in it, and the database
 * may have only what is in the log. */
static void changes(int file, int is_anew, int is_cut)
{
    const char *path = files[file].path;
    if (ends_with(path, ".db-wal") && (is_anew || is_cut) && is_partner_dirty(path))
        breaks("the log is used anew before the database was synced", path);
    if (ends_with(path, ".db") && is_partner_dirty(path))
        breaks("the database is written before the log was synced", path);
    /* What is cut off was of no use any longer. */
    if (!is_cut)
        files[file].is_dirty = 1;
}

/* --- the calls --------------------------------------------------------------------------- */

static int opened(const char *path, int flags, mode_t mode)
{
    struct stat status;
    int file = number_of(path), existed, fd;
    if (file < 0)
        return REAL(open)(path, flags, mode);
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails())
        return -1;
    existed = stat(path, &status) == 0;
    fd = REAL(open)(path, flags, mode);
    if (fd < 0)
        return fd;
    if (fd >= FDS_MAX)
        abort();
    files[file].is_folder = existed && S_ISDIR(status.st_mode);
    file_of[fd] = file + 1;
    if (!existed)
        record('C', file, 0, NULL, 0);
    if (flags & O_TRUNC) {
        changes(file, 1, 1);
        record('T', file, 0, NULL, 0);
    }
    return fd;
}

#define MODE_OF(flags, mode)                                                                      \
    mode_t mode = 0;                                                                              \
    if (flags & O_CREAT) {                                                                        \
        va_list more;                                                                             \
        va_start(more, flags);                                                                    \
        mode = va_arg(more, mode_t);                                                              \
        va_end(more);                                                                             \
    }

int open(const char *path, int flags, ...)
{
    MODE_OF(flags, mode)
    return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE_OF(flags, mode)
    return opened(path, flags, mode);
}

int close(int fd)
{
    if (watched(fd) >= 0)
        file_of[fd] = 0;
    return REAL(close)(fd);
}

static ssize_t written(int fd, const void *data, size_t length, off_t at, int is_at)
{
    int file = watched(fd), is_anew = 0;
    char head[32];
    ssize_t done;
    if (file < 0)
        return is_at ? REAL(pwrite)(fd, data, length, at) : REAL(write)(fd, data, length);
    if (fails()) {
        int error = errno;
        /* A full disk takes what it can first. */
        if (error != ENOSPC || length < 2)
            return -1;
        length /= 2;
        calls--;
    }
    if (!is_at)
        at = lseek(fd, 0, SEEK_CUR);
    /* With another salt in its head what a log held before is gone. */
    if (at == 0 && length >= sizeof head)
        is_anew = pread(fd, head, sizeof head, 0) != sizeof head ||
                  memcmp(head + 16, (const char *)data + 16, 8) != 0;
    done = is_at ? REAL(pwrite)(fd, data, length, at) : REAL(write)(fd, data, length);
    if (done > 0) {
        changes(file, is_anew, 0);
        record('W', file, at, data, done);
    }
    return done;
}

ssize_t write(int fd, const void *data, size_t length)
{
    return written(fd, data, length, 0, 0);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at)
{
    return written(fd, data, length, at, 1);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t at)
{
    return written(fd, data, length, at, 1);
}

static int synced(int fd, int is_data_only)
{
    int file = watched(fd);
    if (file < 0)
        return is_data_only ? REAL(fdatasync)(fd) : REAL(fsync)(fd);
    syncs++;
    if (syncs == fail_sync_at || fails()) {
        errno = syncs == fail_sync_at ? EIO : errno;
        record('X', file, 0, NULL, 0);
        return -1;
    }
    /* The real one would only take time: no power is lost here. */
    files[file].is_dirty = 0;
    record('S', file, 0, NULL, 0);
    return 0;
}

int fsync(int fd)
{
    return synced(fd, 0);
}

int fdatasync(int fd)
{
    return synced(fd, 1);
}

static int cut(int fd, off_t length)
{
    int file = watched(fd), failed;
    if (file >= 0 && fails())
        return -1;
    failed = REAL(ftruncate)(fd, length);
    if (file >= 0 && !failed) {
        changes(file, 0, 1);
        record('T', file, length, NULL, 0);
    }
    return failed;
}

int ftruncate(int fd, off_t length)
{
    return cut(fd, length);
}

int ftruncate64(int fd, off_t length)
{
    return cut(fd, length);
}

static int allocated(int fd, off_t at, off_t length)
{
    int file = watched(fd), error;
    if (file >= 0 && fails())
        return errno;
    error = REAL(posix_fallocate)(fd, at, length);
    if (file >= 0 && !error)
        record('A', file, at + length, NULL, 0);
    return error;
}

int posix_fallocate(int fd, off_t at, off_t length)
{
    return allocated(fd, at, length);
}

int posix_fallocate64(int fd, off_t at, off_t length)
{
    return allocated(fd, at, length);
}

int rename(const char *from, const char *to)
{
    int file = number_of(from), failed;
    if (file >= 0 && fails())
        return -1;
    failed = REAL(rename)(from, to);
    if (file >= 0 && !failed)
        record('R', file, 0, to, strlen(to));
    return failed;
}

int unlink(const char *path)
{
    int file = number_of(path), failed;
    if (file >= 0 && fails())
        return -1;
    failed = REAL(unlink)(path);
    if (file >= 0 && !failed) {
        if (ends_with(path, ".db-wal") && is_partner_dirty(path))
            breaks("the log is removed before the database was synced", path);
        files[file].is_dirty = 0;
        record('U', file, 0, NULL, 0);
    }
    return failed;
}

int mkdir(const char *path, mode_t mode)
{
    int file = number_of(path), failed;
    if (file >= 0 && fails())
        return -1;
    failed = REAL(mkdir)(path, mode);
    if (file >= 0 && !failed) {
        files[file].is_folder = 1;
        record('C', file, 1, NULL, 0);
    }
    return failed;
}
