/* A source of subordinate ids, as sssd and others bring one: libsubid_NAME.so. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct subid_range { unsigned long start, count; };
enum subid_type { ID_TYPE_UID = 1, ID_TYPE_GID };
enum subid_status { SUCCESS, UNKNOWN_USER, ERROR_CONN, ERROR };

enum subid_status shadow_subid_has_range(const char *owner, unsigned long start, unsigned long count,
					 enum subid_type type, bool *result)
{
	unsigned long first = type == ID_TYPE_UID ? 700000 : 800000;

	(void)owner;
	*result = start >= first && start + count <= first + 1000;
	return SUCCESS;
}

enum subid_status shadow_subid_list_owner_ranges(const char *owner, enum subid_type type,
						 struct subid_range **ranges, int *count)
{
	(void)owner;
	*ranges = malloc(sizeof(**ranges));
	**ranges = (struct subid_range){type == ID_TYPE_UID ? 700000 : 800000, 1000};
	*count = 1;
	return SUCCESS;
}

enum subid_status shadow_subid_find_subid_owners(unsigned long id, enum subid_type type, unsigned int **uids,
						 int *count)
{
	(void)id, (void)type, (void)uids, (void)count;
	return ERROR;
}

void shadow_subid_free(void *pointer)
{
	free(pointer);
}
