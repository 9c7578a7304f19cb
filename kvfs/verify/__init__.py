"""`kvfs verify`: whether an endpoint of the API behaves as kvfs assumes, tried in a scratch namespace."""
