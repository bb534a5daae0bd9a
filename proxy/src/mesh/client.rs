//! Plain HTTP/1.1 calls to the control server: Cloud Map's JSON 1.1 and the operator API.
