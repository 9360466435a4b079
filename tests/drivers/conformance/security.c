/* SIDs, ACLs, security descriptors, tokens, access checks. */
#include "ktest.h"

NTKERNELAPI NTSTATUS NTAPI PsLookupProcessByProcessId(HANDLE, PEPROCESS *);
#ifndef STATUS_INVALID_SECURITY_DESCR
#define STATUS_INVALID_SECURITY_DESCR ((NTSTATUS)0xC0000079)
#endif
typedef struct { UCHAR Revision, Count; UCHAR Authority[6]; ULONG Sub[4]; } SID4;
typedef PVOID TOKEN;
typedef struct { UCHAR Revision, Sbz1; USHORT Control; PVOID Owner, Group; PACL Sacl, Dacl; } DESCRIPTOR;

NTSYSAPI NTSTATUS NTAPI RtlInitializeSid(PVOID, PVOID, UCHAR);
NTSYSAPI ULONG NTAPI RtlLengthSid(PVOID);
NTSYSAPI ULONG NTAPI RtlLengthRequiredSid(ULONG);
NTSYSAPI PULONG NTAPI RtlSubAuthoritySid(PVOID, ULONG);
NTSYSAPI PUCHAR NTAPI RtlSubAuthorityCountSid(PVOID);
NTSYSAPI BOOLEAN NTAPI RtlEqualSid(PVOID, PVOID);
NTSYSAPI NTSTATUS NTAPI RtlCopySid(ULONG, PVOID, PVOID);
NTSYSAPI BOOLEAN NTAPI RtlValidSid(PVOID);
NTSYSAPI NTSTATUS NTAPI RtlConvertSidToUnicodeString(PUNICODE_STRING, PVOID, BOOLEAN);
NTSYSAPI NTSTATUS NTAPI RtlCreateAcl(PACL, ULONG, ULONG);
NTSYSAPI NTSTATUS NTAPI RtlAddAccessAllowedAce(PACL, ULONG, ULONG, PVOID);
NTSYSAPI NTSTATUS NTAPI RtlAddAccessDeniedAce(PACL, ULONG, ULONG, PVOID);
NTSYSAPI NTSTATUS NTAPI RtlGetAce(PACL, ULONG, PVOID *);
NTSYSAPI NTSTATUS NTAPI RtlDeleteAce(PACL, ULONG);
NTSYSAPI NTSTATUS NTAPI RtlAddAce(PACL, ULONG, ULONG, PVOID, ULONG);
NTSYSAPI NTSTATUS NTAPI RtlSetOwnerSecurityDescriptor(PVOID, PVOID, BOOLEAN);
NTSYSAPI NTSTATUS NTAPI RtlSetGroupSecurityDescriptor(PVOID, PVOID, BOOLEAN);
NTSYSAPI NTSTATUS NTAPI RtlGetOwnerSecurityDescriptor(PVOID, PVOID *, PBOOLEAN);
NTSYSAPI NTSTATUS NTAPI RtlGetDaclSecurityDescriptor(PVOID, PBOOLEAN, PACL *, PBOOLEAN);
NTSYSAPI NTSTATUS NTAPI RtlAbsoluteToSelfRelativeSD(PVOID, PVOID, PULONG);
NTKERNELAPI BOOLEAN NTAPI SeTokenIsAdmin(TOKEN);
NTKERNELAPI BOOLEAN NTAPI SeTokenIsRestricted(TOKEN);
NTKERNELAPI ULONG NTAPI SeTokenType(TOKEN);
NTKERNELAPI NTSTATUS NTAPI SeQueryInformationToken(TOKEN, ULONG, PVOID *);
NTKERNELAPI NTSTATUS NTAPI SeQuerySessionIdToken(TOKEN, PULONG);
NTKERNELAPI TOKEN NTAPI PsReferencePrimaryToken(PEPROCESS);
NTKERNELAPI VOID NTAPI PsDereferencePrimaryToken(TOKEN);
NTSYSAPI NTSTATUS NTAPI ZwOpenProcessToken(HANDLE, ULONG, PHANDLE);
NTSYSAPI NTSTATUS NTAPI ZwOpenThreadToken(HANDLE, ULONG, BOOLEAN, PHANDLE);
NTSYSAPI NTSTATUS NTAPI ZwQueryInformationToken(HANDLE, ULONG, PVOID, ULONG, PULONG);
NTSYSAPI NTSTATUS NTAPI ZwDuplicateToken(HANDLE, ULONG, POBJECT_ATTRIBUTES, BOOLEAN, ULONG, PHANDLE);
NTSYSAPI NTSTATUS NTAPI ZwQuerySecurityObject(HANDLE, ULONG, PVOID, ULONG, PULONG);

static UCHAR nt_authority[6] = {0, 0, 0, 0, 0, 5};
static UCHAR world_authority[6] = {0, 0, 0, 0, 0, 1};

static VOID make_sid(SID4 *sid, UCHAR *authority, UCHAR count, ULONG first, ULONG second)
{
    RtlInitializeSid(sid, authority, count);
    sid->Sub[0] = first;
    sid->Sub[1] = second;
}

KTEST(sid_basics)
{
    SID4 sid, copy;
    RtlFillMemory(&sid, sizeof sid, 0xCC);
    CHECK_STATUS(RtlInitializeSid(&sid, nt_authority, 2), STATUS_SUCCESS);
    CHECK_EQ(sid.Revision, 1);
    CHECK_EQ(sid.Count, 2);
    CHECK_MEM(sid.Authority, nt_authority, 6);
    CHECK_EQ(sid.Sub[0], 0xCCCCCCCC);
    CHECK_STATUS(RtlInitializeSid(&copy, nt_authority, 16), STATUS_INVALID_PARAMETER);
    CHECK_EQ(RtlLengthRequiredSid(0), 8);
    CHECK_EQ(RtlLengthRequiredSid(15), 68);
    CHECK_EQ(RtlLengthSid(&sid), 16);
    CHECK_PTR(RtlSubAuthoritySid(&sid, 1), &sid.Sub[1]);
    CHECK_PTR(RtlSubAuthorityCountSid(&sid), &sid.Count);
    *RtlSubAuthoritySid(&sid, 0) = 32;
    *RtlSubAuthoritySid(&sid, 1) = 544;
    CHECK(RtlValidSid(&sid));
    CHECK_STATUS(RtlCopySid(15, &copy, &sid), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(RtlCopySid(16, &copy, &sid), STATUS_SUCCESS);
    CHECK(RtlEqualSid(&sid, &copy));
    copy.Sub[1] = 545;
    CHECK(!RtlEqualSid(&sid, &copy));
    copy = sid;
    copy.Count = 1;
    CHECK(!RtlEqualSid(&sid, &copy));
    copy.Count = 16;
    CHECK(!RtlValidSid(&copy));
    copy.Count = 2;
    copy.Revision = 2;
    CHECK(!RtlValidSid(&copy));
}

KTEST(sid_text)
{
    SID4 sid;
    UNICODE_STRING text;
    WCHAR buffer[16];
    make_sid(&sid, nt_authority, 2, 32, 544);
    CHECK_STATUS(RtlConvertSidToUnicodeString(&text, &sid, TRUE), STATUS_SUCCESS);
    CHECK_EQ(text.Length, 24);
    CHECK(RtlCompareMemory(text.Buffer, L"S-1-5-32-544", 24) == 24);
    RtlFreeUnicodeString(&text);
    text.Buffer = buffer;
    text.MaximumLength = 22;
    CHECK_STATUS(RtlConvertSidToUnicodeString(&text, &sid, FALSE), STATUS_BUFFER_OVERFLOW);
    text.MaximumLength = 32;
    CHECK_STATUS(RtlConvertSidToUnicodeString(&text, &sid, FALSE), STATUS_SUCCESS);
    CHECK_EQ(text.Length, 24);
    CHECK_EQ(buffer[12], 0);
    sid.Revision = 3;
    CHECK_STATUS(RtlConvertSidToUnicodeString(&text, &sid, FALSE), (NTSTATUS)0xC0000078);
}

KTEST(acl_basics)
{
    ULONG space[32];
    PACL acl = (PACL)space;
    PUCHAR ace, first;
    SID4 system, world;
    make_sid(&system, nt_authority, 1, 18, 0);
    make_sid(&world, world_authority, 1, 0, 0);
    CHECK_STATUS(RtlCreateAcl(acl, 7, 2), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(RtlCreateAcl(acl, 64, 1), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlCreateAcl(acl, 64, 5), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlCreateAcl(acl, 0x10000, 2), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlCreateAcl(acl, 51, 2), STATUS_SUCCESS);
    CHECK_EQ(acl->AclSize, 48);
    CHECK_EQ(acl->AceCount, 0);
    CHECK_STATUS(RtlAddAccessAllowedAce(acl, 2, 0x1F01FF, &system), STATUS_SUCCESS);
    CHECK_STATUS(RtlAddAccessAllowedAce(acl, 9, 1, &system), (NTSTATUS)0xC0000059);
    CHECK_STATUS(RtlAddAccessDeniedAce(acl, 2, 2, &world), STATUS_SUCCESS);
    CHECK_STATUS(RtlAddAccessAllowedAce(acl, 2, 1, &world), (NTSTATUS)0xC0000099);
    CHECK_EQ(acl->AceCount, 2);
    CHECK_STATUS(RtlGetAce(acl, 2, (PVOID *)&ace), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlGetAce(acl, 0, (PVOID *)&first), STATUS_SUCCESS);
    CHECK_PTR(first, (PUCHAR)acl + 8);
    CHECK_EQ(*(PUSHORT)(first + 2), 20);
    CHECK_EQ(*(PULONG)(first + 4), 0x1F01FF);
    CHECK(RtlEqualSid(first + 8, &system));
    CHECK_STATUS(RtlGetAce(acl, 1, (PVOID *)&ace), STATUS_SUCCESS);
    CHECK_EQ(ace[0], 1);
    CHECK_STATUS(RtlDeleteAce(acl, 2), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(RtlDeleteAce(acl, 0), STATUS_SUCCESS);
    CHECK_EQ(acl->AceCount, 1);
    CHECK_STATUS(RtlGetAce(acl, 0, (PVOID *)&ace), STATUS_SUCCESS);
    CHECK_PTR(ace, first);
    CHECK_EQ(ace[0], 1);
    CHECK(RtlEqualSid(ace + 8, &world));
    {
        ULONG list[5];
        RtlCopyMemory(list, ace, 20);
        ((PUCHAR)list)[0] = 0;
        CHECK_STATUS(RtlAddAce(acl, 2, 0, list, 19), STATUS_INVALID_PARAMETER);
        CHECK_STATUS(RtlAddAce(acl, 2, 0, list, 20), STATUS_SUCCESS);
        CHECK_EQ(acl->AceCount, 2);
        CHECK_EQ(first[0], 0);
        CHECK_EQ(first[20], 1);
        CHECK_STATUS(RtlAddAce(acl, 2, MAXULONG, list, 20), STATUS_BUFFER_TOO_SMALL);
    }
}

KTEST(descriptors)
{
    DESCRIPTOR sd;
    SID4 owner;
    ULONG acl_space[16], relative[32], length;
    PACL acl = (PACL)acl_space, found = (PACL)1;
    BOOLEAN present = 9, defaulted = 9;
    PVOID sid = NULL;
    make_sid(&owner, nt_authority, 2, 32, 544);
    CHECK_STATUS(RtlCreateSecurityDescriptor(&sd, 2), (NTSTATUS)0xC0000058);
    CHECK_STATUS(RtlCreateSecurityDescriptor(&sd, 1), STATUS_SUCCESS);
    CHECK_EQ(sd.Control, 0);
    CHECK(RtlValidSecurityDescriptor(&sd));
    CHECK_EQ(RtlLengthSecurityDescriptor(&sd), sizeof sd);
    CHECK_STATUS(RtlGetDaclSecurityDescriptor(&sd, &present, &found, &defaulted), STATUS_SUCCESS);
    CHECK_EQ(present, 0);
    CHECK_PTR(found, (PVOID)1);
    CHECK_EQ(defaulted, 9);
    RtlCreateAcl(acl, sizeof acl_space, 2);
    RtlAddAccessAllowedAce(acl, 2, 1, &owner);
    CHECK_STATUS(RtlSetDaclSecurityDescriptor(&sd, TRUE, acl, FALSE), STATUS_SUCCESS);
    CHECK_EQ(sd.Control, 4);
    CHECK_STATUS(RtlSetOwnerSecurityDescriptor(&sd, &owner, TRUE), STATUS_SUCCESS);
    CHECK_EQ(sd.Control, 5);
    CHECK_STATUS(RtlGetDaclSecurityDescriptor(&sd, &present, &found, &defaulted), STATUS_SUCCESS);
    CHECK_EQ(present, 1);
    CHECK_PTR(found, acl);
    CHECK_EQ(defaulted, 0);
    CHECK_STATUS(RtlGetOwnerSecurityDescriptor(&sd, &sid, &defaulted), STATUS_SUCCESS);
    CHECK_PTR(sid, &owner);
    CHECK_EQ(defaulted, 1);
    length = 0;
    CHECK_STATUS(RtlAbsoluteToSelfRelativeSD(&sd, relative, &length), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(length, 20 + sizeof acl_space + 16);
    length = sizeof relative;
    CHECK_STATUS(RtlAbsoluteToSelfRelativeSD(&sd, relative, &length), STATUS_SUCCESS);
    CHECK_EQ(((PUSHORT)relative)[1], 0x8005);
    CHECK(RtlValidRelativeSecurityDescriptor(relative, length, 4));
    CHECK(RtlValidRelativeSecurityDescriptor(relative, length, 1));
    CHECK(!RtlValidRelativeSecurityDescriptor(relative, length, 2));
    CHECK(!RtlValidRelativeSecurityDescriptor(relative, length - 4, 0));
    CHECK(!RtlValidRelativeSecurityDescriptor(relative, 19, 0));
    CHECK_STATUS(RtlSetDaclSecurityDescriptor((PVOID)relative, FALSE, NULL, FALSE), STATUS_INVALID_SECURITY_DESCR);
    CHECK_STATUS(RtlAbsoluteToSelfRelativeSD(relative, relative, &length), (NTSTATUS)0xC00000E7);
    CHECK_EQ(RtlLengthSecurityDescriptor(relative), length);
    CHECK_STATUS(RtlSetDaclSecurityDescriptor(&sd, FALSE, NULL, FALSE), STATUS_SUCCESS);
    CHECK_EQ(sd.Control, 1);
    sd.Revision = 3;
    CHECK(!RtlValidSecurityDescriptor(&sd));
    CHECK_STATUS(RtlSetGroupSecurityDescriptor(&sd, &owner, FALSE), (NTSTATUS)0xC0000058);
}

static BOOLEAN access(PVOID sd, ULONG desired, KPROCESSOR_MODE mode, PULONG granted, PNTSTATUS status)
{
    static GENERIC_MAPPING mapping = {0x120089, 0x120116, 0x1200A0, 0x1F01FF};
    SECURITY_SUBJECT_CONTEXT context;
    BOOLEAN result;
    SeCaptureSubjectContext(&context);
    result = SeAccessCheck(sd, &context, FALSE, desired, 0, NULL, &mapping, mode, granted, status);
    SeReleaseSubjectContext(&context);
    return result;
}

KTEST(access_check)
{
    DESCRIPTOR sd;
    SID4 admins, world, stranger;
    ULONG acl_space[32], granted = 0;
    PACL acl = (PACL)acl_space;
    NTSTATUS status = 1;
    make_sid(&admins, nt_authority, 2, 32, 544);
    make_sid(&world, world_authority, 1, 0, 0);
    make_sid(&stranger, nt_authority, 2, 21, 77);
    RtlCreateSecurityDescriptor(&sd, 1);
    CHECK(access(NULL, 1, KernelMode, &granted, &status));
    CHECK_EQ(granted, 1);
    CHECK(!access(NULL, 1, UserMode, &granted, &status));
    CHECK_STATUS(status, STATUS_ACCESS_DENIED);
    CHECK(access(&sd, 0x10000, UserMode, &granted, &status)); /* no DACL: everything */
    CHECK_STATUS(status, STATUS_SUCCESS);
    RtlCreateAcl(acl, sizeof acl_space, 2);
    RtlSetDaclSecurityDescriptor(&sd, TRUE, acl, FALSE);
    CHECK(!access(&sd, 1, UserMode, &granted, &status)); /* an empty one: nothing */
    CHECK_STATUS(status, STATUS_ACCESS_DENIED);
    CHECK(!access(&sd, 0, UserMode, &granted, &status));
    CHECK(access(&sd, 0x80000, UserMode, &granted, &status) == FALSE); /* SeTakeOwnership is held, not enabled */
    CHECK(!access(&sd, 0x1000000, UserMode, &granted, &status));
    CHECK_STATUS(status, STATUS_PRIVILEGE_NOT_HELD);
    RtlAddAccessAllowedAce(acl, 2, 3, &world);
    CHECK(access(&sd, 3, UserMode, &granted, &status));
    CHECK_EQ(granted, 3);
    CHECK(!access(&sd, 7, UserMode, &granted, &status));
    CHECK(access(&sd, MAXIMUM_ALLOWED, UserMode, &granted, &status));
    CHECK_EQ(granted, 3);
    RtlAddAccessAllowedAce(acl, 2, 4, &stranger);
    CHECK(!access(&sd, 4, UserMode, &granted, &status));
    RtlAddAccessDeniedAce(acl, 2, 2, &admins); /* behind what allows it: too late */
    CHECK(access(&sd, 2, UserMode, &granted, &status));
    RtlCreateAcl(acl, sizeof acl_space, 2);
    RtlAddAccessDeniedAce(acl, 2, 2, &admins);
    RtlAddAccessAllowedAce(acl, 2, GENERIC_READ | 2, &world);
    CHECK(!access(&sd, 2, UserMode, &granted, &status));
    CHECK(access(&sd, 1, UserMode, &granted, &status));
    CHECK(access(&sd, GENERIC_READ, UserMode, &granted, &status));
    CHECK_EQ(granted, 0x120089);
    RtlCreateAcl(acl, sizeof acl_space, 2);
    RtlSetOwnerSecurityDescriptor(&sd, &admins, FALSE);
    CHECK(access(&sd, READ_CONTROL | WRITE_DAC, UserMode, &granted, &status)); /* the owner's own */
    CHECK(!access(&sd, WRITE_OWNER, UserMode, &granted, &status));
    CHECK(access(&sd, MAXIMUM_ALLOWED, KernelMode, &granted, &status));
    CHECK_EQ(granted, 0x1F01FF);
}

NTKERNELAPI NTSTATUS NTAPI ObSetSecurityObjectByPointer(PVOID, ULONG, PVOID);
NTSYSAPI NTSTATUS NTAPI RtlSetSaclSecurityDescriptor(PVOID, BOOLEAN, PACL, BOOLEAN);

/* Appends an ACE: head, mask, what comes before the SID, the SID, what comes after it. */
static NTSTATUS add_ace(PACL acl, UCHAR type, ULONG mask, const VOID *before, ULONG before_bytes, PVOID sid, const VOID *after,
                        ULONG after_bytes)
{
    ULONG ace[64], sid_bytes = RtlLengthSid(sid);
    UCHAR *at = (UCHAR *)ace;
    ULONG bytes = (8 + before_bytes + sid_bytes + after_bytes + 3) & ~3u;
    RtlZeroMemory(ace, sizeof ace);
    at[0] = type;
    *(USHORT *)(at + 2) = (USHORT)bytes;
    ace[1] = mask;
    RtlCopyMemory(at + 8, before, before_bytes);
    RtlCopyMemory(at + 8 + before_bytes, sid, sid_bytes);
    RtlCopyMemory(at + 8 + before_bytes + sid_bytes, after, after_bytes);
    return RtlAddAce(acl, 4, 0xFFFFFFFF, ace, bytes);
}

static UCHAR label_authority[6] = {0, 0, 0, 0, 0, 16};

/* An object's mandatory label: the client is of high integrity (0x3000). */
KTEST(mandatory_labels)
{
    DESCRIPTOR sd;
    SID4 world, label;
    ULONG dacl_space[32], sacl_space[32], granted = 0, major = 0;
    PACL dacl = (PACL)dacl_space, sacl = (PACL)sacl_space;
    NTSTATUS status = 1;
    PsGetVersion(&major, NULL, NULL, NULL);
    make_sid(&world, world_authority, 1, 0, 0);
    make_sid(&label, label_authority, 1, 0x4000, 0);
    RtlCreateSecurityDescriptor(&sd, 1);
    RtlCreateAcl(dacl, sizeof dacl_space, 2);
    RtlAddAccessAllowedAce(dacl, 2, 0x1F01FF, &world);
    RtlSetDaclSecurityDescriptor(&sd, TRUE, dacl, FALSE);
    RtlCreateAcl(sacl, sizeof sacl_space, 2);
    CHECK_STATUS(RtlSetSaclSecurityDescriptor(&sd, TRUE, sacl, FALSE), STATUS_SUCCESS);
    CHECK(access(&sd, GENERIC_WRITE, UserMode, &granted, &status)); /* no label: medium */
    CHECK_STATUS(add_ace(sacl, 0x11, 1, NULL, 0, &label, NULL, 0), STATUS_SUCCESS); /* system, no write up */
    CHECK(access(&sd, GENERIC_READ, UserMode, &granted, &status));
    CHECK(access(&sd, GENERIC_READ | GENERIC_EXECUTE, UserMode, &granted, &status));
    if (major >= 6) {
        CHECK(!access(&sd, GENERIC_WRITE, UserMode, &granted, &status));
        CHECK_STATUS(status, STATUS_ACCESS_DENIED);
        CHECK(!access(&sd, DELETE, UserMode, &granted, &status));
        CHECK(access(&sd, MAXIMUM_ALLOWED, UserMode, &granted, &status));
        CHECK_EQ(granted, 0x120089 | 0x1200A0);
        RtlCreateAcl(sacl, sizeof sacl_space, 2);
        add_ace(sacl, 0x11, 2, NULL, 0, &label, NULL, 0); /* no read up */
        CHECK(!access(&sd, 1, UserMode, &granted, &status));
        CHECK(access(&sd, 2, UserMode, &granted, &status));
    }
    make_sid(&label, label_authority, 1, 0x3000, 0);
    RtlCreateAcl(sacl, sizeof sacl_space, 2);
    add_ace(sacl, 0x11, 7, NULL, 0, &label, NULL, 0); /* the client's own level */
    CHECK(access(&sd, 0x1F01FF, UserMode, &granted, &status));
    CHECK(access(&sd, GENERIC_ALL, KernelMode, &granted, &status));
}

KTEST(object_and_callback_aces)
{
    static const ULONG no_types[1], one_type[5] = {1, 2, 3, 4, 5};
    /* Member_of {Everyone}; 1 == 2; @User.x == 1 */
    static const UCHAR member[] = {'a', 'r', 't', 'x', 0x51, 12, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x89};
    static const UCHAR differ[] = {'a', 'r', 't', 'x', 4, 1, 0, 0, 0, 0, 0, 0, 0, 3, 2,
                                   4, 2, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0x80};
    static const UCHAR claim[] = {'a', 'r', 't', 'x', 0xF9, 2, 0, 0, 0, 'x', 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0x80};
    DESCRIPTOR sd;
    SID4 world;
    ULONG space[64], granted = 0;
    PACL acl = (PACL)space;
    NTSTATUS status = 1;
    make_sid(&world, world_authority, 1, 0, 0);
    RtlCreateSecurityDescriptor(&sd, 1);
    RtlCreateAcl(acl, sizeof space, 4);
    RtlSetDaclSecurityDescriptor(&sd, TRUE, acl, FALSE);
    CHECK_STATUS(add_ace(acl, 5, 1, one_type, 20, &world, NULL, 0), STATUS_SUCCESS); /* for one property only */
    CHECK(!access(&sd, 1, UserMode, &granted, &status));
    CHECK_STATUS(add_ace(acl, 5, 1, no_types, 4, &world, NULL, 0), STATUS_SUCCESS);
    CHECK(access(&sd, 1, UserMode, &granted, &status));
    RtlCreateAcl(acl, sizeof space, 4);
    CHECK_STATUS(add_ace(acl, 6, 1, one_type, 20, &world, NULL, 0), STATUS_SUCCESS); /* denies all the same */
    RtlAddAccessAllowedAce(acl, 4, 3, &world);
    CHECK(!access(&sd, 1, UserMode, &granted, &status));
    CHECK(access(&sd, 2, UserMode, &granted, &status));
    RtlCreateAcl(acl, sizeof space, 4);
    CHECK_STATUS(add_ace(acl, 9, 1, NULL, 0, &world, member, sizeof member), STATUS_SUCCESS);
    CHECK(access(&sd, 1, UserMode, &granted, &status));
    RtlCreateAcl(acl, sizeof space, 4);
    add_ace(acl, 9, 1, NULL, 0, &world, differ, sizeof differ); /* false */
    add_ace(acl, 9, 1, NULL, 0, &world, claim, sizeof claim);   /* unknown */
    add_ace(acl, 9, 1, NULL, 0, &world, "other", 6);            /* no condition of the kernel's */
    CHECK(!access(&sd, 1, UserMode, &granted, &status));
    RtlCreateAcl(acl, sizeof space, 4);
    add_ace(acl, 10, 1, NULL, 0, &world, differ, sizeof differ); /* denies not */
    add_ace(acl, 10, 2, NULL, 0, &world, claim, sizeof claim);   /* denies: who knows */
    RtlAddAccessAllowedAce(acl, 4, 3, &world);
    CHECK(access(&sd, 1, UserMode, &granted, &status));
    CHECK(!access(&sd, 2, UserMode, &granted, &status));
}

static NTSTATUS open_device(PCWSTR text, ULONG desired, ULONG flags)
{
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    IO_STATUS_BLOCK block;
    HANDLE handle;
    RtlInitUnicodeString(&name, text);
    InitializeObjectAttributes(&attributes, &name, OBJ_KERNEL_HANDLE | flags, NULL, NULL);
    NTSTATUS status = ZwCreateFile(&handle, desired, &attributes, &block, NULL, 0, FILE_SHARE_READ | FILE_SHARE_WRITE,
                                   FILE_OPEN, 0, NULL, 0);
    if (NT_SUCCESS(status)) {
        CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
    }
    return status;
}

#define SECURED L"\\Device\\ktest_secured"

KTEST(opening_a_device_is_checked)
{
    DESCRIPTOR sd;
    SID4 admins, system;
    ULONG space[32];
    PACL acl = (PACL)space;
    UNICODE_STRING name;
    PDEVICE_OBJECT device;
    RtlInitUnicodeString(&name, SECURED);
    CHECK_STATUS(IoCreateDevice(ktest_driver, 0, &name, FILE_DEVICE_UNKNOWN, 0, FALSE, &device), STATUS_SUCCESS);
    device->Flags &= ~DO_DEVICE_INITIALIZING;
    make_sid(&admins, nt_authority, 2, 32, 544);
    make_sid(&system, nt_authority, 1, 18, 0);
    CHECK_STATUS(open_device(SECURED, GENERIC_READ | GENERIC_WRITE, OBJ_FORCE_ACCESS_CHECK), STATUS_SUCCESS);
    RtlCreateSecurityDescriptor(&sd, 1);
    RtlCreateAcl(acl, sizeof space, 2);
    RtlAddAccessAllowedAce(acl, 2, 0x1F01FF, &system);
    RtlSetDaclSecurityDescriptor(&sd, TRUE, acl, FALSE);
    CHECK_STATUS(ObSetSecurityObjectByPointer(device, DACL_SECURITY_INFORMATION, &sd), STATUS_SUCCESS);
    CHECK_STATUS(open_device(SECURED, GENERIC_READ, OBJ_FORCE_ACCESS_CHECK), STATUS_ACCESS_DENIED);
    CHECK_STATUS(open_device(SECURED, GENERIC_READ, 0), STATUS_SUCCESS); /* the kernel may */
    CHECK_STATUS(open_device(SECURED L"\\name", GENERIC_READ, OBJ_FORCE_ACCESS_CHECK), STATUS_SUCCESS);
    device->Characteristics |= FILE_DEVICE_SECURE_OPEN;
    CHECK_STATUS(open_device(SECURED L"\\name", GENERIC_READ, OBJ_FORCE_ACCESS_CHECK), STATUS_ACCESS_DENIED);
    RtlAddAccessAllowedAce(acl, 2, GENERIC_READ, &admins);
    CHECK_STATUS(ObSetSecurityObjectByPointer(device, DACL_SECURITY_INFORMATION, &sd), STATUS_SUCCESS);
    CHECK_STATUS(open_device(SECURED, GENERIC_READ, OBJ_FORCE_ACCESS_CHECK), STATUS_SUCCESS);
    CHECK_STATUS(open_device(SECURED, GENERIC_WRITE, OBJ_FORCE_ACCESS_CHECK), STATUS_ACCESS_DENIED);
    CHECK_STATUS(open_device(SECURED, MAXIMUM_ALLOWED, OBJ_FORCE_ACCESS_CHECK), STATUS_SUCCESS);
    IoDeleteDevice(device);
}

KTEST(tokens)
{
    TOKEN token = PsReferencePrimaryToken(PsGetCurrentProcess());
    TOKEN system = NULL;
    PEPROCESS process = NULL;
    HANDLE handle, copy;
    ULONG session = 99, length = 0, value = 0;
    PVOID block = NULL;
    struct { PVOID sid; ULONG attributes; } *user;
    UCHAR buffer[64];
    CHECK_STATUS(PsLookupProcessByProcessId((HANDLE)4, &process), STATUS_SUCCESS);
    system = PsReferencePrimaryToken(process);
    ObDereferenceObject(process);
    CHECK(token != NULL && token != system);
    CHECK(SeTokenIsAdmin(token));
    CHECK(SeTokenIsAdmin(system));
    CHECK(!SeTokenIsRestricted(token));
    CHECK_EQ(SeTokenType(token), 1);
    CHECK_STATUS(SeQuerySessionIdToken(token, &session), STATUS_SUCCESS);
    CHECK_EQ(session, 1);
    CHECK_STATUS(SeQuerySessionIdToken(system, &session), STATUS_SUCCESS);
    CHECK_EQ(session, 0);
    CHECK_STATUS(SeQueryInformationToken(system, 1, &block), STATUS_SUCCESS);
    user = block;
    CHECK(RtlValidSid(user->sid));
    CHECK_EQ(*RtlSubAuthoritySid(user->sid, 0), 18);
    ExFreePool(block);
    CHECK_STATUS(SeQueryInformationToken(token, 0x7777, &block), STATUS_INVALID_INFO_CLASS);
    CHECK_STATUS(ZwOpenProcessToken((HANDLE)(LONG_PTR)-1, 8, &handle), STATUS_SUCCESS);
    CHECK_STATUS(ZwOpenThreadToken((HANDLE)(LONG_PTR)-2, 8, TRUE, &copy), (NTSTATUS)0xC000007C);
    CHECK_STATUS(ZwQueryInformationToken(handle, 1, buffer, 4, &length), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(length, 2 * sizeof(PVOID) + 28);
    CHECK_STATUS(ZwQueryInformationToken(handle, 1, buffer, sizeof buffer, &length), STATUS_SUCCESS);
    user = (PVOID)buffer;
    CHECK_PTR(user->sid, buffer + 2 * sizeof(PVOID));
    CHECK_STATUS(ZwQueryInformationToken(handle, 8, &value, 4, &length), STATUS_SUCCESS);
    CHECK_EQ(value, 1);
    CHECK_STATUS(ZwQueryInformationToken(handle, 9, &value, 4, &length), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(ZwQueryInformationToken(handle, 19, &value, 4, &length), (NTSTATUS)0xC000005F); /* not split by UAC */
    CHECK_STATUS(ZwDuplicateToken(handle, 0, NULL, FALSE, 3, &copy), STATUS_INVALID_PARAMETER);
    CHECK_STATUS(ZwDuplicateToken(handle, 0, NULL, FALSE, 2, &copy), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryInformationToken(copy, 8, &value, 4, &length), STATUS_SUCCESS);
    CHECK_EQ(value, 2);
    CHECK_STATUS(ZwClose(copy), STATUS_SUCCESS);
    CHECK_STATUS(ZwQueryInformationToken(copy, 8, &value, 4, &length), STATUS_INVALID_HANDLE);
    CHECK_STATUS(ZwQuerySecurityObject(handle, 1, buffer, 0, &length), STATUS_BUFFER_TOO_SMALL);
    CHECK_EQ(length, 36);
    CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
    PsDereferencePrimaryToken(token);
    PsDereferencePrimaryToken(system);
}

/* Structures with pointers into themselves. */
KTEST(token_information)
{
    static ULONG_PTR space[400];
    UCHAR *block = (UCHAR *)space;
    ULONG length = 0, major = 0;
    HANDLE handle;
    PsGetVersion(&major, NULL, NULL, NULL);
    CHECK_STATUS(ZwOpenProcessToken((HANDLE)(LONG_PTR)-1, 8, &handle), STATUS_SUCCESS);
    /* TokenGroupsAndPrivileges: the user first */
    CHECK_STATUS(ZwQueryInformationToken(handle, 13, block, 0, &length), STATUS_BUFFER_TOO_SMALL);
    CHECK_STATUS(ZwQueryInformationToken(handle, 13, block, length, &length), STATUS_SUCCESS);
    ULONG count = *(ULONG *)block, privileges_at = 2 * (8 + sizeof(PVOID));
    struct { PVOID sid; ULONG attributes; } *sids = *(PVOID *)(block + 8);
    CHECK_EQ(count, 10);
    CHECK_PTR(sids, block + 3 * (8 + sizeof(PVOID)) + 8);
    for (ULONG i = 0; i < count; i++) {
        CHECK((UCHAR *)sids[i].sid > block && (UCHAR *)sids[i].sid < block + length);
        CHECK(RtlValidSid(sids[i].sid));
    }
    CHECK_EQ(*RtlSubAuthoritySid(sids[0].sid, 4), 1000);
    CHECK_EQ(*(ULONG *)(block + 8 + sizeof(PVOID)), 0); /* RestrictedSidCount */
    ULONG privileges = *(ULONG *)(block + privileges_at);
    CHECK_EQ(privileges, 23);
    CHECK_EQ(*(ULONG *)(block + privileges_at + 4), 12 * privileges);
    CHECK_PTR(*(PVOID *)(block + privileges_at + 8), block + length - 12 * privileges);
    /* TokenAccessInformation: the same SIDs with a hash, the privileges, who and how */
    CHECK_STATUS(ZwQueryInformationToken(handle, 22, block, sizeof space, &length), STATUS_SUCCESS);
    UCHAR *hash = *(PVOID *)block, *list = *(PVOID *)(block + 2 * sizeof(PVOID));
    CHECK_EQ(*(ULONG *)hash, 10);
    sids = *(PVOID *)(hash + sizeof(PVOID));
    CHECK(RtlValidSid(sids[9].sid));
    ULONG_PTR *words = (ULONG_PTR *)(hash + 2 * sizeof(PVOID));
    CHECK(words[1000 & 0xF] & 1);
    CHECK(words[16 + ((1000 & 0xFF) >> 4)] & 1);
    CHECK_EQ(*(ULONG *)list, 23);
    CHECK_EQ(*(ULONG *)(block + 3 * sizeof(PVOID) + 8), 1); /* TokenPrimary */
    CHECK_EQ(*(ULONG *)(block + 3 * sizeof(PVOID) + 16), 1); /* no write up */
    /* TokenLogonSid */
    CHECK_STATUS(ZwQueryInformationToken(handle, 28, block, sizeof space, &length), STATUS_SUCCESS);
    CHECK_EQ(*(ULONG *)block, 1);
    CHECK_EQ(*RtlSubAuthoritySid(*(PVOID *)(block + sizeof(PVOID)), 0), 5);
    if (major >= 10) {
        CHECK_STATUS(ZwQueryInformationToken(handle, 29, block, sizeof space, &length), STATUS_SUCCESS);
        CHECK_EQ(*(ULONG *)block, 0); /* TokenIsAppContainer */
        CHECK_STATUS(ZwQueryInformationToken(handle, 30, block, sizeof space, &length), STATUS_SUCCESS);
        CHECK_EQ(*(ULONG *)block, 0); /* TokenCapabilities */
        CHECK_STATUS(ZwQueryInformationToken(handle, 31, block, sizeof space, &length), STATUS_SUCCESS);
        CHECK_PTR(*(PVOID *)block, NULL); /* TokenAppContainerSid */
        CHECK_STATUS(ZwQueryInformationToken(handle, 33, block, sizeof space, &length), STATUS_SUCCESS);
        CHECK_EQ(*(USHORT *)block, 1); /* claims: version, none */
        CHECK_EQ(*(ULONG *)(block + 4), 0);
    } else {
        CHECK_STATUS(ZwQueryInformationToken(handle, 29, block, sizeof space, &length), STATUS_INVALID_INFO_CLASS);
        CHECK_STATUS(ZwQueryInformationToken(handle, 33, block, sizeof space, &length), STATUS_INVALID_INFO_CLASS);
    }
    CHECK_STATUS(ZwClose(handle), STATUS_SUCCESS);
}

KTEST(privileges)
{
    LUID change_notify = {23, 0}, debug = {20, 0};
    CHECK(SeSinglePrivilegeCheck(debug, KernelMode));
    CHECK(!SeSinglePrivilegeCheck(debug, UserMode));
    CHECK(SeSinglePrivilegeCheck(change_notify, UserMode));
}

KTEST(share_access)
{
    static FILE_OBJECT first, second;
    SHARE_ACCESS share;
    IoSetShareAccess(FILE_READ_DATA, FILE_SHARE_READ, &first, &share);
    CHECK_EQ(share.OpenCount, 1);
    CHECK_EQ(share.Readers, 1);
    CHECK_EQ(share.SharedRead, 1);
    CHECK_EQ(first.ReadAccess, 1);
    CHECK_EQ(first.SharedWrite, 0);
    CHECK_STATUS(IoCheckShareAccess(FILE_WRITE_DATA, FILE_SHARE_READ, &second, &share, TRUE), STATUS_SHARING_VIOLATION);
    CHECK_EQ(share.OpenCount, 1);
    CHECK_STATUS(IoCheckShareAccess(FILE_READ_DATA, 0, &second, &share, TRUE), STATUS_SHARING_VIOLATION);
    CHECK_STATUS(IoCheckShareAccess(FILE_READ_DATA, FILE_SHARE_READ, &second, &share, FALSE), STATUS_SUCCESS);
    CHECK_EQ(share.OpenCount, 1);
    IoUpdateShareAccess(&second, &share);
    CHECK_EQ(share.OpenCount, 2);
    IoRemoveShareAccess(&first, &share);
    IoRemoveShareAccess(&second, &share);
    CHECK_EQ(share.OpenCount, 0);
    CHECK_EQ(share.SharedRead, 0);
    CHECK_STATUS(IoCheckShareAccess(FILE_READ_ATTRIBUTES, 0, &second, &share, TRUE), STATUS_SUCCESS);
    CHECK_EQ(share.OpenCount, 0);
}

KTEST_FAMILY("security", KTEST_ENTRY(sid_basics), KTEST_ENTRY(sid_text), KTEST_ENTRY(acl_basics),
             KTEST_ENTRY(descriptors), KTEST_ENTRY(access_check), KTEST_ENTRY(mandatory_labels),
             KTEST_ENTRY(object_and_callback_aces), KTEST_ENTRY(opening_a_device_is_checked), KTEST_ENTRY(tokens), KTEST_ENTRY(token_information),
             KTEST_ENTRY(privileges),
             KTEST_ENTRY(share_access));
