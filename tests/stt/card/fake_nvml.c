/* A driver's management library for machines without a card: what pynvml asks for, answered from a folder.
 *
 * $PRETEND_CARD/total    bytes of memory
 * $PRETEND_CARD/used/PID bytes in use by that process; they count only while it lives, as on a real card
 * $PRETEND_CARD/other    bytes that nobody owns up to
 * $PRETEND_CARD/hidden   when it exists, no process is shown, as in many containers
 * $PRETEND_CARD/errors/F what the function F answers instead, by NVML's number
 * $PRETEND_CARD/hangs/F  while it says 1, the function F does not return
 */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };

static const char UUID[] = "GPU-00000000-1111-2222-3333-444444444444";

typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process;

static unsigned long long number_in(const char *name)
{
    char path[4096];
    unsigned long long value = 0;
    snprintf(path, sizeof path, "%s/%s", getenv("PRETEND_CARD"), name);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%llu", &value) != 1)
            value = 0;
        fclose(file);
    }
    return value;
}

/* Out of order, or in time. Each function asks this first. */
static int fault(const char *function)
{
    char name[256];
    snprintf(name, sizeof name, "hangs/%s", function);
    while (number_in(name) == 1)
        usleep(5000);
    snprintf(name, sizeof name, "errors/%s", function);
    return (int)number_in(name);
}

#define MAY_FAIL                      \
    do {                              \
        int answer = fault(__func__); \
        if (answer != SUCCESS)        \
            return answer;            \
    } while (0)

/* A process that has ended and was not waited for yet uses no card. */
static int lives(int pid)
{
    char path[64], state = 'Z';
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
        state = 'Z';
    fclose(file);
    return state != 'Z' && state != 'X';
}

static unsigned processes(process *into, unsigned most)
{
    char path[4096];
    unsigned count = 0;
    snprintf(path, sizeof path, "%s/used", getenv("PRETEND_CARD"));
    DIR *folder = opendir(path);
    if (folder == NULL)
        return 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        int pid = atoi(entry->d_name);
        char name[512];
        if (pid <= 0 || !lives(pid))
            continue;
        snprintf(name, sizeof name, "used/%s", entry->d_name);
        if (count < most)
            into[count] = (process){(unsigned)pid, number_in(name), 0, 0};
        count++;
    }
    closedir(folder);
    return count;
}

int nvmlInitWithFlags(unsigned flags)
{
    MAY_FAIL;
    (void)flags;
    return getenv("PRETEND_CARD") != NULL && number_in("total") > 0 ? SUCCESS : DRIVER_NOT_LOADED;
}

int nvmlShutdown(void)
{
    MAY_FAIL;
    return SUCCESS;
}

const char *nvmlErrorString(int result) { return result == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Error"; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    MAY_FAIL;
    *device = (void *)UUID;
    return index == 0 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    MAY_FAIL;
    *count = 1;
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
    MAY_FAIL;
    *device = (void *)UUID;
    return strcmp(uuid, UUID) == 0 ? SUCCESS : NOT_FOUND;
}

static int copy(char *into, unsigned size, const char *text)
{
    snprintf(into, size, "%s", text);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *into, unsigned size)
{
    MAY_FAIL;
    return copy(into, size, (const char *)device);
}

int nvmlDeviceGetName(void *device, char *into, unsigned size)
{
    MAY_FAIL;
    (void)device;
    return copy(into, size, "Pretend Card");
}

int nvmlDeviceGetMemoryInfo(void *device, memory *into)
{
    MAY_FAIL;
    process found[256];
    (void)device;
    unsigned count = processes(found, 256);
    into->total = number_in("total");
    into->used = number_in("other");
    for (unsigned i = 0; i < count && i < 256; i++)
        into->used += found[i].used;
    into->free = into->total > into->used ? into->total - into->used : 0;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process *into)
{
    MAY_FAIL;
    char path[4096];
    unsigned most = into == NULL ? 0 : *count;
    (void)device;
    snprintf(path, sizeof path, "%s/hidden", getenv("PRETEND_CARD"));
    FILE *hidden = fopen(path, "r");
    if (hidden != NULL) {
        fclose(hidden);
        *count = 0;
        return SUCCESS;
    }
    *count = processes(into, most);
    return *count > most ? INSUFFICIENT_SIZE : SUCCESS;
}

/* What drivers before CUDA 11.4 or so have instead; the same but for the name. */
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, process *into)
{
    unsigned most = into == NULL ? 0 : *count;
    (void)device;
    MAY_FAIL;
    *count = processes(into, most);
    return *count > most ? INSUFFICIENT_SIZE : SUCCESS;
}
