/* What the service manager tells a program: service.exe start|stop|state NAME. */
#include "common.h"

int main(int count, char **arguments)
{
    CHECK(count == 3);
    SC_HANDLE manager = OpenSCManagerA(NULL, NULL, SC_MANAGER_CONNECT);
    CHECK(manager != NULL);
    SC_HANDLE service = OpenServiceA(manager, arguments[2], SERVICE_START | SERVICE_STOP | SERVICE_QUERY_STATUS);
    CHECK(service != NULL);
    SERVICE_STATUS status;
    BOOL is_ok;
    if (strcmp(arguments[1], "start") == 0) {
        is_ok = StartServiceA(service, 0, NULL);
    } else if (strcmp(arguments[1], "stop") == 0) {
        is_ok = ControlService(service, SERVICE_CONTROL_STOP, &status);
    } else {
        CHECK(QueryServiceStatus(service, &status));
        printf("state %lu\n", status.dwCurrentState);
        return 0;
    }
    printf("%s: error %lu\n", arguments[1], is_ok ? 0 : GetLastError());
    return 0;
}
